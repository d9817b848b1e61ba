"""A filter is worth what a model trained on its output is worth: small models, from scratch.

Pools with planted noise are scored and filtered with clipdre's public functions, and a student is
trained on every subset for the same number of steps. Run it with ``python -m evidence``.
"""
