"""Shards to embeddings."""
