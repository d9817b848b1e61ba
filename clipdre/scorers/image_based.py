"""Image-based filtering: whether a pair's cluster is one that a target data set has images in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.spherical import nearest
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import Clustered

COLUMN = "cluster_in_target"


@dataclass(frozen=True)
class ImageBased(Clustered):
    """Whether the pool's centroid nearest to a pair is nearest to an image of the target too.

    `--where cluster_in_target` keeps what looks like the target at all, for instance like images of
    ImageNet; together with a high similarity it is DataComp's strongest baseline from its medium
    pool on. It helps if the target stands for what the model is for. It misleads if the number of
    clusters does not fit: with few, a single image of the target keeps a large and mixed part of
    the pool; with many, only what is close to one of its images is kept. DataComp takes 100,000
    clusters. `normsim` measures closeness in degrees, without clusters.
    """

    name: ClassVar = "image-based"
    title: ClassVar = "Whether a target data set has images in the pair's cluster"
    source: ClassVar = "Gadre et al., DataComp, NeurIPS 2023 (arXiv 2304.14108)"
    cost: ClassVar = "k-means of a sample, passes over vectors and the target"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"target": "SCORES", "clusters": 10}

    target: str = setting("Score folder, folder of embeddings, or .npy file of the target.")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (Column(COLUMN, "", "whether the target has vectors in the pair's cluster"),)

    def fit(self, pool: Pool) -> Arrays:
        """Cluster the pool, and mark the clusters that the target's vectors belong to."""
        if len(self.modality.each) > 1:
            raise UsageError("`modality` both has no target", "use image or text")
        centroids = self.centroids(pool)
        hit = np.zeros(len(centroids), np.bool_)
        for tile in pool.target(self.target, self.modality.each[0]):
            hit[nearest(tile, torch.from_numpy(centroids))[0].numpy()] = True
        return {
            "centroids": centroids,
            "hit": hit,
            "clusters": np.array(len(hit)),
            "clusters_in_target": hit.sum(),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {COLUMN: learned["hit"][self.assigned(rows, learned["centroids"])["cluster"]]}
