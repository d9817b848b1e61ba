"""Score folders: manifest, tables, embeddings, references."""
