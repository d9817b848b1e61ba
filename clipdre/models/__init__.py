"""Contrastive models: what clipdre needs of them, and loading."""
