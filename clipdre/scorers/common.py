"""What several scorers have in common: clusters of the pool, sums, and encoded texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.modality import Modalities, Modality
from clipdre.core.spherical import concatenated, nearest
from clipdre.scorers.base import Arrays, Encoder, Members, Pool, Rows, setting

# Rows whose vectors are kept in memory in float32 while they are looked at again and again.
KEPT = 32_768


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """Settings of spherical k-means, and the clusters that it gives."""

    clusters: int = setting(
        "Number of clusters; 0 for the square root of the number of rows.", default=0
    )
    modality: Modalities = setting(
        "Vectors to cluster by; both: image and text as one vector.", default=Modalities.IMAGE
    )
    seed: int = setting("Seed of k-means.", default=1)

    def centroids(self, pool: Pool) -> npt.NDArray[np.float32]:
        """Cluster the pool; return unit vectors of shape (count, d)."""
        count = self.clusters or round(len(pool) ** 0.5)
        return pool.centroids(self.modality.each, count, self.seed)

    def vectors(self, rows: Rows) -> Tensor:
        """Return the unit vectors that are clustered, float32 of shape (n, d)."""
        return concatenated([rows.vectors(modality) for modality in self.modality.each])

    def members(self, rows: Members, places: npt.NDArray[np.int64]) -> Tensor:
        """Return the unit vectors of the members at `places`, float32 of shape (n, d)."""
        return concatenated([rows.vectors(modality, places) for modality in self.modality.each])

    def assigned(self, rows: Rows, centroids: npt.NDArray[np.float32]) -> Arrays:
        """Return `cluster` and `distance` of each row: 1 - cosine with its centroid."""
        indices, cosines = nearest(self.vectors(rows), torch.from_numpy(centroids))
        return {"cluster": indices.int().numpy(), "distance": 1 - cosines.numpy()}


def reader_of(members: Members) -> Callable[[Modality, npt.NDArray[np.int64]], Tensor]:
    """Return a function that reads the vectors at some places, from memory if members are few."""
    if len(members) > KEPT:
        return members.vectors
    kept = {modality: members.vectors(modality) for modality in Modality}
    return lambda modality, places: kept[modality][torch.from_numpy(places)]


def of_rows(learned: npt.NDArray[Any], rows: Rows) -> npt.NDArray[Any]:
    """Return what was learned about some rows, of values for all rows of the pool."""
    return learned[rows.start : rows.start + len(rows)]


def encoded(encoder: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the unit vectors of texts, shape (n, d)."""
    vectors = encoder.encode_texts([encoder.tokenize(text) for text in texts])
    array: npt.NDArray[np.float32] = vectors.cpu().numpy()
    return array


def vector_sums(pool: Pool) -> dict[Modality, npt.NDArray[np.float64]]:
    """Return the sum of the pool's vectors of each modality, shape (d,)."""
    sums = pool.reduce("sums", _sums, added)
    return {modality: sums[modality.value] for modality in Modality}


def _sums(rows: Rows) -> Arrays:
    # float32 within a tile, which is faster and loses 1e-7 of the sum; float64 across tiles.
    return {m.value: rows.vectors(m).sum(dim=0).double().numpy() for m in Modality}


def added(first: Arrays, second: Arrays) -> Arrays:
    """Merge two parts of a pass by adding them up."""
    return {name: value + second[name] for name, value in first.items()}
