"""Tensors in, tensors out: the estimators. No files, no logging, no globals."""
