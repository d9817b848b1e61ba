"""Spherical k-means with faiss, trained on a sample."""

from __future__ import annotations

import faiss
import torch
from torch import Tensor

ITERATIONS = 20
TRAINING_PER_CLUSTER = 64
# The sample of a large pool with many clusters, in bytes; faiss takes about twice as much.
TRAINING_BYTES = 2**29


def training_rows(count: int, d: int) -> int:
    """Return how many rows to train `count` centroids of length `d` with."""
    return max(count, min(TRAINING_PER_CLUSTER * count, TRAINING_BYTES // (4 * d)))


def spherical_kmeans(training: Tensor, count: int, seed: int) -> Tensor:
    """Return centroids of length 1, float32 of shape (count, d).

    Parameters
    ----------
    training : float32 Tensor of shape (n, d)
        Unit vectors, `count` rows or more.
    """
    kmeans = faiss.Kmeans(
        training.shape[1],
        count,
        niter=ITERATIONS,
        seed=seed,
        spherical=True,
        max_points_per_centroid=max(TRAINING_PER_CLUSTER, -(-len(training) // count)),
        min_points_per_centroid=1,
    )
    kmeans.train(training.numpy())
    return torch.from_numpy(kmeans.centroids)
