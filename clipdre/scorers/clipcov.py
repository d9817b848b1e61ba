"""ClipCov: how much a pair adds to the cross-covariance of images and captions of its class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.core.spherical import nearest
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Cluster, Pool, Rows, setting
from clipdre.scorers.common import Clustered, encoded, of_rows, reader_of, vector_sums

GAIN, CLASS = "clipcov", "clipcov_class"
# Pairs of a class that are looked at together.
BLOCK = 65_536


@dataclass(frozen=True)
class ClipCov(Clustered):
    """Gain of a pair in the cross-similarity of its class, at the time it is chosen.

    A pair (v, t) of class c gains ``<v, mean of t' in c> + <t, mean of v' in c>`` over the pairs of
    its class, minus the same over the whole pool: what the class does not share with all others.
    Pairs are chosen greedily, the largest gains first, and means lose what is chosen already, so
    that a class is covered before it is repeated. Classes do not depend on each other, so the best
    pairs by `clipcov` are the greedy choice for any number of pairs. Classes are those of zero-shot
    prompts (`--prompt`, or `--classes` for vectors from elsewhere) or else clusters. It helps where
    few pairs have to stand for a pool, as in the paper (5 to 10 % of CC3M or CC12M). It misleads
    for large shares, where centrality keeps what is common, and it does not know whether a pair
    matches: the published code adds twice the similarity, which is
    `--by "clipcov + 2 * similarity"`.
    """

    name: ClassVar = "clipcov"
    title: ClassVar = "How much a pair stands for its class"
    source: ClassVar = "Joshi et al., ClipCov, AISTATS 2024 (arXiv 2403.12267)"
    cost: ClassVar = "k-means of a sample, passes within a cluster"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"clusters": 10}

    prompt: tuple[str, ...] = setting(
        "Text that describes a class; pairs belong to the one nearest to their image. Repeat it.",
        default=(),
    )
    classes: str = setting(
        "Vectors of the classes, such as means of prompts: a .npy file, or a folder of embeddings.",
        default="",
    )
    steps: int = setting(
        "Steps in which pairs are chosen from a class; 1: all at once.", default=20
    )

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (
            Column(GAIN, "cosine", "gain in its class's cross-similarity when chosen", "high"),
            Column(CLASS, "", "number of the class: of the cluster, or of the prompt from 0"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Assign classes, and choose from each."""
        if self.steps < 1:
            raise UsageError(f"`steps` {self.steps} is too small", "use 1 or more")
        centres = self._classes(pool)
        images = bool(self.prompt or self.classes)
        of_rows = partial(self._class_of, centres=centres, images=images)
        classes = pool.collect("assign classes", of_rows)["cluster"]
        means = {modality: total / len(pool) for modality, total in vector_sums(pool).items()}
        gains = pool.by_cluster("choose", classes, partial(self._gains, means=means))
        return {GAIN: gains["gain"], CLASS: classes}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {name: of_rows(learned[name], rows) for name in (GAIN, CLASS)}

    def _classes(self, pool: Pool) -> npt.NDArray[np.float32]:
        """Return the vectors of the classes, shape (count, d)."""
        given = {"prompt": self.prompt, "classes": self.classes, "clusters": self.clusters}
        names = [f"`{name}`" for name, value in given.items() if value]
        if len(names) > 1:
            raise UsageError(f"{' and '.join(names)} each define the classes", "give one of them")
        if self.prompt:
            return encoded(pool.encoder, self.prompt)
        if self.classes:
            return torch.cat(list(pool.target(self.classes, Modality.TEXT))).numpy()
        return self.centroids(pool)

    def _class_of(self, rows: Rows, centres: npt.NDArray[np.float32], images: bool) -> Arrays:
        if not images:
            return {"cluster": self.assigned(rows, centres)["cluster"]}
        found, _ = nearest(rows.vectors(Modality.IMAGE), torch.from_numpy(centres))
        return {"cluster": found.int().numpy()}

    def _gains(self, cluster: Cluster, means: Mapping[Modality, npt.NDArray[np.float64]]) -> Arrays:
        pairs = _Pairs(cluster)
        shared = pairs.products({m: torch.from_numpy(means[m.other]) for m in Modality})
        left = pairs.sums(np.arange(len(cluster)))
        # Ties are broken by key hash.
        by_hash = np.argsort(cluster.hashes, kind="stable")
        gains, smallest = np.full(len(cluster), np.nan), np.inf
        sizes = map(len, np.array_split(by_hash, min(self.steps, len(cluster))))
        for size in sizes:
            now = pairs.products({m: left[m.other] / len(cluster) for m in Modality}) - shared
            open_ones = by_hash[np.isnan(gains[by_hash])]
            chosen = open_ones[np.argsort(-now[open_ones], kind="stable")[:size]]
            # Nobody overtakes those who were chosen before.
            gains[chosen] = np.minimum(now[chosen], smallest)
            smallest = gains[chosen[-1]]
            sums = pairs.sums(chosen)
            left = {m: left[m] - sums[m] for m in Modality}
        return {"gain": gains.astype(np.float32)}


class _Pairs:
    """Sums over the pairs of a class."""

    def __init__(self, cluster: Cluster) -> None:
        self._places, self._read = np.arange(len(cluster)), reader_of(cluster)

    def _blocks(self, modality: Modality, places: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        for block in np.array_split(places, -(-len(places) // BLOCK)):
            yield self._read(modality, block)

    def products(self, others: Mapping[Modality, Tensor]) -> npt.NDArray[np.float64]:
        """Return the sum of the inner products with a vector for each modality, shape (n,)."""
        found = [
            torch.cat([block @ other.float() for block in self._blocks(modality, self._places)])
            for modality, other in others.items()
        ]
        total: npt.NDArray[np.float64] = torch.stack(found).sum(dim=0).double().numpy()
        return total

    def sums(self, places: npt.NDArray[np.int64]) -> dict[Modality, Tensor]:
        """Return the sums of the vectors at `places`, float64 of shape (d,)."""
        return {
            m: torch.stack(
                [b.sum(dim=0, dtype=torch.float64) for b in self._blocks(m, places)]
            ).sum(dim=0)
            for m in Modality
        }
