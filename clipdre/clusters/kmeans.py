"""Cells of a pool by k-means with faiss."""

from __future__ import annotations

import faiss
import torch
from torch import Tensor

ITERATIONS = 4
TRAINING_PER_CELL = 16
SEED = 1


def trained_centroids(training: Tensor, count: int) -> Tensor:
    """Return centroids that divide a pool into cells, float32 of shape (count, d).

    Parameters
    ----------
    training : float32 Tensor of shape (n, d)
        A uniform sample of the pool, `TRAINING_PER_CELL` rows per cell or fewer.
    count : int
        Number of cells.
    """
    kmeans = faiss.Kmeans(
        training.shape[1],
        count,
        niter=ITERATIONS,
        seed=SEED,
        max_points_per_centroid=TRAINING_PER_CELL,
        min_points_per_centroid=1,
    )
    kmeans.train(training.numpy())
    return torch.from_numpy(kmeans.centroids)
