"""One file per scorer: pure functions of captions, embeddings and samples. See `base`."""
