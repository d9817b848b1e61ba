"""LEMoN: whether the neighbours of an image and of its caption agree with the pair."""

from __future__ import annotations

from collections.abc import Mapping
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
from clipdre.scorers.common import of_rows, reader_of

# A pool of up to so many rows is compared with itself as a whole.
EXACT_UP_TO = 32_768
QUERIES, KEYS = 1024, 16_384
SEED = 1
# Below every cosine.
NOWHERE = -2.0


@dataclass(frozen=True)
class Lemon:
    """Distance of the pair, and distances to what the pair's neighbours are paired with.

    ``lemon_image`` is the mean over the k nearest images x_j of the distance between the pair's
    caption and theirs, each weighted by exp(-tau_1 d(x, x_j) - tau_2 d(x_j, y_j)), so that near
    neighbours whose own caption fits count most; ``lemon_text`` is the same with image and caption
    exchanged. ``lemon`` is ``1 - similarity + beta lemon_image + gamma lemon_text``: low for good
    pairs. All distances are 1 - cosine. The paper tunes the settings on labelled pairs; the
    defaults are fixed values, for pools without labels. It helps to find captions of another image
    where similarity alone is blurred, since it asks whether captions of like images say like
    things. It misleads for rare images and captions, whose neighbours are far away and of other
    kinds, and for mistakes that were made many times: copies of a bad pair vouch for each other, so
    remove copies first.
    Neighbours are exact in pools of up to 32,768 rows; beyond that they come from the clusters
    nearest to the pair's own (`--probes`), which misses some.
    """

    name: ClassVar = "lemon"
    title: ClassVar = "Distance of a pair, with what its neighbours are paired with"
    source: ClassVar = "Zhang et al., LEMoN, ICML 2025 (arXiv 2407.18941)"
    cost: ClassVar = "neighbours of all images and captions"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"neighbors": 10}

    neighbors: int = setting("Number of neighbours of each image, and of each caption.", default=30)
    beta: float = setting("Factor of lemon_image.", default=5.0)
    gamma: float = setting("Factor of lemon_text.", default=5.0)
    tau_1: float = setting("How fast a neighbour's weight falls with its distance.", default=0.1)
    tau_2: float = setting(
        "How fast it falls with the distance of the neighbour's own image and caption.", default=5.0
    )
    clusters: int = setting(
        "Clusters that neighbours are looked for in; 0 for one up to 32,768 rows, the square root "
        "of their number beyond.",
        default=0,
    )
    probes: int = setting(
        "Clusters, the nearest ones, that a cluster's rows look for neighbours in.", default=8
    )

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        weighted = "weighted distance of the"
        return (
            Column("lemon", "", "1 - similarity + beta lemon_image + gamma lemon_text", "low"),
            Column(
                "lemon_image", "", f"{weighted} caption to those of its image's neighbours", "low"
            ),
            Column(
                "lemon_text", "", f"{weighted} image to those of its caption's neighbours", "low"
            ),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Find the neighbours in each modality, and average over them."""
        for name in ("neighbors", "probes"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` {getattr(self, name)} is too small", "use 1 or more")
        return {f"lemon_{m}": self._neighbourly(pool, m) for m in Modality}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        images, texts = (of_rows(learned[f"lemon_{m}"], rows).astype(np.float64) for m in Modality)
        distances = 1 - _cosines(*(rows.vectors(m) for m in Modality)).double().numpy()
        found = distances + self.beta * images + self.gamma * texts
        return {"lemon": found, "lemon_image": images, "lemon_text": texts}

    def _neighbourly(self, pool: Pool, modality: Modality) -> npt.NDArray[np.float32]:
        count = self.clusters or (1 if len(pool) <= EXACT_UP_TO else round(len(pool) ** 0.5))
        centroids = pool.centroids((modality,), count, SEED)
        of_rows = partial(_assigned, modality=modality, centroids=centroids)
        clusters = pool.collect(f"assign {modality}s", of_rows)["cluster"]
        near = _near(centroids, np.bincount(clusters, minlength=count), self)
        part = partial(self._averaged, modality=modality)
        found = pool.by_cluster(f"find neighbours by {modality}", clusters, part, near)
        values: npt.NDArray[np.float32] = found["value"]
        return values

    def _averaged(self, cluster: Cluster, modality: Modality) -> Arrays:
        around = _Around(cluster, modality)
        blocks = np.array_split(cluster.own, -(-len(cluster) // QUERIES))
        return {"value": np.concatenate([self._block(around, own) for own in blocks])}

    def _block(self, around: _Around, own: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Average over the neighbours of the rows at the places `own`."""
        cosines, neighbours = around.nearest_others(own, self.neighbors)
        if not neighbours.shape[1]:
            return np.zeros(len(own), np.float32)  # alone: nobody disagrees
        apart = 1 - around.counterparts(own, neighbours)
        misfit = 1 - around.similarity[neighbours]
        weights = torch.exp(-self.tau_1 * (1 - cosines) - self.tau_2 * misfit)
        found: npt.NDArray[np.float32] = (weights * apart).mean(dim=1).numpy()
        return found


class _Around:
    """The rows around a cluster, with the similarity of each pair, float32 of shape (n,)."""

    def __init__(self, cluster: Cluster, modality: Modality) -> None:
        self._read, self._modality = reader_of(cluster.around), modality
        size = len(cluster.around)
        self._blocks = np.array_split(np.arange(size), -(-size // KEYS))
        self.similarity = torch.cat(
            [_cosines(*(self._read(m, block) for m in Modality)) for block in self._blocks]
        )

    def nearest_others(self, own: npt.NDArray[np.int64], most: int) -> tuple[Tensor, Tensor]:
        """Return cosines and places of the rows nearest to those at `own`, without themselves.

        Both are of shape (n, k), with k as `most`, or fewer if there are not as many.
        """
        queries, count = self._read(self._modality, own), min(most, len(self.similarity) - 1)
        cosines, places = torch.empty(len(own), 0), torch.empty(len(own), 0, dtype=torch.int64)
        for keys in self._blocks:
            products = queries @ self._read(self._modality, keys).T
            here = np.flatnonzero((own >= keys[0]) & (own <= keys[-1]))
            products[here, own[here] - keys[0]] = NOWHERE
            top = products.topk(min(count, len(keys)), dim=1)
            cosines = torch.cat([cosines, top.values], dim=1)
            places = torch.cat([places, top.indices + keys[0]], dim=1)
            best = cosines.topk(min(count, cosines.shape[1]), dim=1)
            cosines, places = best.values, places.gather(1, best.indices)
        return cosines, places

    def counterparts(self, own: npt.NDArray[np.int64], neighbours: Tensor) -> Tensor:
        """Return cosines of the other modality between rows and their neighbours, shape (n, k)."""
        theirs = self._read(self._modality.other, neighbours.flatten().numpy())
        mine = self._read(self._modality.other, own)
        cosines: Tensor = torch.linalg.vecdot(theirs.view(*neighbours.shape, -1), mine[:, None])
        return cosines


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    products: Tensor = (first * second).sum(dim=-1)
    return products


def _assigned(rows: Rows, modality: Modality, centroids: npt.NDArray[np.float32]) -> Arrays:
    indices, _ = nearest(rows.vectors(modality), torch.from_numpy(centroids))
    return {"cluster": indices.int().numpy()}


def _near(
    centroids: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64], settings: Lemon
) -> npt.NDArray[np.int64]:
    """Return the nearest clusters that have rows, and as many as hold the asked neighbours."""
    filled = np.flatnonzero(sizes)
    vectors = torch.from_numpy(centroids[filled])
    most = min(len(filled), settings.probes + -(-settings.neighbors // int(sizes[filled].min())))
    nearest_first = [
        (block @ vectors.T).topk(most, dim=1).indices for block in torch.split(vectors, QUERIES)
    ]
    order = filled[torch.cat(nearest_first).numpy()]
    before = np.cumsum(sizes[order], axis=1) - sizes[order]
    wanted = (np.arange(most) < settings.probes) | (before <= settings.neighbors)
    near = np.repeat(np.arange(len(centroids))[:, None], most, axis=1)
    near[filled] = np.where(wanted, order, filled[:, None])
    return near
