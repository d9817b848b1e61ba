"""Semantic duplicates within clusters (SemDeDup)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.columns import Column
from clipdre.scorers.base import Arrays, Cluster, Pool, Rows
from clipdre.scorers.common import Clustered, of_rows

BLOCK = 2048
COLUMN = "duplicate_similarity"
# The smallest cosine there is.
NOTHING = -1.0


@dataclass(frozen=True)
class SemanticDuplicates(Clustered):
    """Largest cosine with a pair of the same cluster that is farther from the centroid.

    Within each cluster, pairs are ordered by their distance from the centroid, farthest first, and
    each is compared with all before it, whether those are kept or not; copies are ordered by key
    hash. So `--where "duplicate_similarity <= 0.95"` is SemDeDup with epsilon 0.05, and any epsilon
    can be chosen later. The first of a cluster has -1. It helps against pools that show the same
    things over and over, which costs training and teaches little. It misleads for subsets that are
    already small, and by image alone it drops pairs whose captions differ; of a group of copies it
    keeps the one that is farthest from the centroid, not the best pair: `--distinct` does that for
    pairs that are alike on both sides. Duplicates in different clusters are not found. The paper
    takes 50,000 clusters for 440 million images; comparisons grow with the square of a cluster.
    """

    name: ClassVar = "semantic-duplicates"
    title: ClassVar = "Similarity to a less typical pair of the same cluster"
    source: ClassVar = "SemDeDup (arXiv 2303.09540)"
    cost: ClassVar = "k-means of a sample, all pairs within a cluster"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"clusters": 10}

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        meaning = "largest cosine with a pair of its cluster that is farther from the centroid"
        return (Column(COLUMN, "cosine", f"{meaning}; -1 if there is none", "low"),)

    def fit(self, pool: Pool) -> Arrays:
        """Cluster the pool, and compare the pairs of each cluster."""
        centroids = self.centroids(pool)
        assigned = pool.collect("assign clusters", partial(self.assigned, centroids=centroids))
        compared = partial(self._compared, centroids=centroids)
        return pool.by_cluster("find duplicates", assigned["cluster"], compared)

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {COLUMN: of_rows(learned[COLUMN], rows)}

    def _compared(self, cluster: Cluster, centroids: npt.NDArray[np.float32]) -> Arrays:
        centroid = torch.from_numpy(centroids[cluster.number]).double()
        blocks = np.array_split(np.arange(len(cluster)), -(-len(cluster) // BLOCK))
        # Row by row in float64, so that copies are as far to the last bit.
        cosines = [(self.members(cluster, b).double() * centroid).sum(dim=1) for b in blocks]
        order = np.lexsort((cluster.hashes, torch.cat(cosines).numpy()))
        found = np.empty(len(order), np.float32)
        found[order] = largest_before(len(order), lambda n: self.members(cluster, order[n])).numpy()
        return {COLUMN: found}


def largest_before(n: int, take: Callable[[slice], Tensor]) -> Tensor:
    """Return the largest cosine of each of n rows with a row before it, shape (n,); the first's -1.

    Parameters
    ----------
    take : callable
        Returns the unit vectors of a slice of the rows. They are taken block by block again and
        again, which costs little beside their products, so memory hardly grows with n.
    """
    found = torch.full((n,), NOTHING)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        vectors = take(rows)
        for first in range(0, start, BLOCK):
            cosines = vectors @ take(slice(first, first + BLOCK)).T
            found[rows] = torch.maximum(found[rows], cosines.amax(dim=1))
        above = torch.ones(len(vectors), len(vectors), dtype=torch.bool).triu()
        among = (vectors @ vectors.T).masked_fill(above, NOTHING)
        found[rows] = torch.maximum(found[rows], among.amax(dim=1))
    return found.clamp(max=1.0)
