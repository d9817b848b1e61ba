"""Estimators from tensors to tensors: no files, no logging, no globals."""
