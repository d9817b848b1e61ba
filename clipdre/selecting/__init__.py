"""Rules, recipes and lists of samples, applied to a score folder."""
