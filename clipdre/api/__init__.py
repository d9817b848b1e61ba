"""clipdre from Python: the same functions as the command line, on score folders.

`clipdre.core.exact` has the quantities of pairs in arrays.
"""
