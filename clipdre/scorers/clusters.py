"""Clusters of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.scorers.base import Arrays, Pool, Rows
from clipdre.scorers.common import Clustered


@dataclass(frozen=True)
class Clusters(Clustered):
    """Cluster of a pair by spherical k-means, and how far it is from the centroid.

    It helps to balance a pool over what it shows (`--balance cluster_image`), to look at one kind
    of pairs at a time, and to choose typical or unusual ones by their distance. Names of clusters
    are numbers without an order. It misleads if clusters are read as classes: k-means divides dense
    regions and joins rare ones, and another seed or number divides otherwise. Centroids are trained
    on a sample of up to 64 rows per cluster, or what fits into 512 MB.
    """

    name: ClassVar = "clusters"
    title: ClassVar = "Cluster of a pair, by spherical k-means"
    source: ClassVar = "Dhillon and Modha, Machine Learning 42, 2001; Johnson et al. (faiss)"
    cost: ClassVar = "k-means of a sample, one pass over vectors"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"clusters": 10}

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        by = "image and caption" if len(self.modality.each) > 1 else self.modality.value
        return (
            Column(f"cluster_{self.modality}", "", f"number of the cluster, by {by}"),
            Column(f"cluster_distance_{self.modality}", "cosine", "1 - cosine with its centroid"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Train the centroids."""
        centroids = self.centroids(pool)
        return {"centroids": centroids, "clusters": np.array(len(centroids))}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        found = self.assigned(rows, learned["centroids"])
        return {
            f"cluster_{self.modality}": found["cluster"],
            f"cluster_distance_{self.modality}": found["distance"],
        }
