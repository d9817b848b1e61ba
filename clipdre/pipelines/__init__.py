"""Whole runs: shards to a finished score folder."""
