"""k-means over a pool."""
