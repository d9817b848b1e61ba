"""clipdre: which image-text pairs are worth keeping, told by the model's own density ratios."""

__version__ = "0.1.0"
