"""Whole runs: shards to a finished score folder, a scorer over a score folder."""
