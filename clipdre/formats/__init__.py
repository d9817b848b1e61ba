"""File formats: the only package that knows bytes, column names and file layouts."""
