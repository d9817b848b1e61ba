"""WebDataset shards: samples, members, byte spans and images."""
