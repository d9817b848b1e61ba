"""Density-based pruning: how many pairs each cluster keeps, by how complex it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.ranks import ranks_in_groups
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import Clustered, of_rows

QUOTA, RANK = "dbp_quota", "dbp_rank"
# Centroids whose cosines are in memory at once, with all others.
BLOCK = 1024


@dataclass(frozen=True)
class DensityPruning(Clustered):
    """How many pairs the cluster keeps, and the place of a pair in it, the least typical first.

    A cluster's complexity is the product of d_inter, the mean distance of its centroid from the 20
    nearest ones, and d_intra, the mean distance of its pairs from its centroid. The pool is cut to
    `--keep`, divided among clusters in proportion to ``softmax(complexity / temperature)``, as
    evenly as their sizes allow (least squares), and at least one pair each. Prototypes are dropped
    first: `--where "dbp_rank <= dbp_quota"` keeps what the paper keeps. It helps to spend a budget
    on what is diverse instead of on thousands of like images, after duplicates were removed, which
    would fill the clusters otherwise. It misleads in noisy pools, since what is far from every
    centroid is often noise: filter by `log_ratio` first. The paper takes 500 clusters for 280
    million pairs, and 100 for DataComp's medium pool.
    """

    name: ClassVar = "density-pruning"
    title: ClassVar = "Quota of a pair's cluster by complexity, and the pair's place in it"
    source: ClassVar = "Abbas et al., ICLR 2024 (arXiv 2401.04578)"
    cost: ClassVar = "k-means of a sample, two passes over vectors"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"keep": 0.5, "clusters": 10}

    keep: float = setting("Share of the pool to keep.")
    temperature: float = setting("Temperature of the softmax; smaller is more uneven.", default=0.5)
    neighbors: int = setting("Nearest centroids that d_inter is the mean over.", default=20)

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        far_first = "place in the cluster by distance from the centroid; 1 is the farthest"
        return (
            Column(QUOTA, "pairs", "number of pairs that the cluster keeps"),
            Column(RANK, "", far_first, "low"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Cluster the pool, measure the clusters and divide the budget."""
        self._check()
        centroids = self.centroids(pool)
        found = pool.collect("assign clusters", partial(self.assigned, centroids=centroids))
        clusters, distances = found["cluster"].astype(np.int64), found["distance"]
        sizes = np.bincount(clusters, minlength=len(centroids))
        intra = np.bincount(clusters, distances, len(centroids)) / np.maximum(sizes, 1)
        complexity = intra * inter_distances(centroids, self.neighbors)
        logits = np.where(sizes > 0, complexity / self.temperature, -np.inf)
        shares = np.exp(logits - logits.max())
        quotas = divided(round(self.keep * len(pool)), shares / shares.sum(), sizes)
        return {
            QUOTA: quotas[clusters].astype(np.int32),
            RANK: ranks_in_groups(clusters, distances, pool.column("key_hash")),
            "kept": quotas.sum(),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {name: of_rows(learned[name], rows) for name in (QUOTA, RANK)}

    def _check(self) -> None:
        if not 0 < self.keep <= 1:
            raise UsageError(f"`keep` {self.keep} is not a share", "use a number in (0, 1]")
        if not self.temperature > 0:
            raise UsageError(f"`temperature` {self.temperature} is not positive", "use 0.5, or 0.1")
        if self.neighbors < 1:
            raise UsageError(f"`neighbors` {self.neighbors} is too small", "use 1 or more")


def inter_distances(centroids: npt.NDArray[np.float32], neighbors: int) -> npt.NDArray[np.float64]:
    """Return each centroid's mean distance from the nearest others, shape (count,); 1 if alone."""
    count = min(neighbors, len(centroids) - 1)
    if not count:
        return np.ones(1)
    vectors = torch.from_numpy(centroids).double()
    # The nearest is the centroid itself.
    nearest = [
        (b @ vectors.T).topk(count + 1, dim=1).values[:, 1:] for b in torch.split(vectors, BLOCK)
    ]
    found: npt.NDArray[np.float64] = (1 - torch.cat(nearest)).mean(dim=1).numpy()
    return found


def divided(
    budget: int, shares: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Divide a budget in proportion to shares, within the sizes of the clusters.

    The quotas x minimize ``sum (x - budget shares)^2`` with ``min(1, size) <= x <= size`` and the
    sum of the budget, or what the bounds allow. Rounding is by largest remainders.

    Returns
    -------
    int64 array of shape (count,)
    """
    lower = np.minimum(1, sizes)
    total = int(np.clip(budget, lower.sum(), sizes.sum()))
    asked = budget * shares

    def quotas(shift: float) -> npt.NDArray[np.float64]:
        # The bounded least squares solution moves all quotas by the same amount.
        found: npt.NDArray[np.float64] = np.clip(asked + shift, lower, sizes)
        return found

    low, high = -float(asked.max()), float(sizes.max())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if quotas(middle).sum() < total else (low, middle)
    exact = quotas(high)
    whole = np.floor(exact).astype(np.int64)
    left = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
