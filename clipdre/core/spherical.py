"""Spherical clusters: a row belongs to the centroid with which it has the largest cosine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Centroids that rows are compared with at once.
TILE = 4096
# Cosines that are closer than rounding in float32 allows to tell apart.
TIE = 1e-6


def concatenated(vectors: Sequence[Tensor]) -> Tensor:
    """Join unit vectors of several modalities to unit vectors: (n, d) each to (n, d k)."""
    joined: Tensor = torch.cat(list(vectors), dim=1) / len(vectors) ** 0.5
    return joined


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of each row, whatever other rows it comes with.

    Parameters
    ----------
    vectors, centroids : float32 Tensors of shape (n, d) and (c, d)
        Unit vectors.

    Returns
    -------
    indices : int64 Tensor of shape (n,)
    cosines : float64 Tensor of shape (n,)
    """
    cosines, indices = _two_nearest(vectors, centroids)
    if len(centroids) > 1:
        tied = torch.nonzero(cosines[:, 0] - cosines[:, 1] < TIE).squeeze(1)
        indices[tied] = _two_nearest(vectors[tied].double(), centroids)[1]
    found = indices[:, 0]
    # Row by row, so that copies have the same cosine to the last bit.
    return found, (vectors.double() * centroids[found]).sum(dim=1)


def _two_nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and indices of the two nearest centroids, shape (n, 2) or (n, 1)."""
    cosines, indices = [], []
    for number, part in enumerate(torch.split(centroids, TILE)):
        top = (vectors @ part.to(vectors.dtype).T).topk(min(2, len(part)), dim=1)
        cosines.append(top.values)
        indices.append(top.indices + number * TILE)
    largest = torch.cat(cosines, dim=1).topk(min(2, len(centroids)), dim=1)
    return largest.values, torch.cat(indices, dim=1).gather(1, largest.indices)
