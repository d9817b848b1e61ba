"""A world of drawn scenes and captions whose density ratios are known in closed form."""
