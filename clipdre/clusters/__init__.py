"""Clusters of a pool by k-means."""
