"""WebDataset shards: samples, members, byte spans, images."""
