"""Embeddings to references and scores."""
