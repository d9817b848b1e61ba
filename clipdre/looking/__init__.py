"""A score folder as one page for a browser."""
