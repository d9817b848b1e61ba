"""SQL over score folders: contained, bounded, in pool order."""
