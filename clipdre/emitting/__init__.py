"""Subsets to shards, files and streams."""
