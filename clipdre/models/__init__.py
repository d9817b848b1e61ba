"""Contrastive models: the interface that clipdre needs, and loading."""
