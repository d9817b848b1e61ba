"""Write subsets as shards, files and streams."""
