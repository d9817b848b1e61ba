"""The only place that knows bytes, column names and file layouts."""
