"""A world of drawn scenes and captions in which every density ratio is known in closed form."""
