"""Conformity: how much a vector is like all others of its modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.scorers.base import Arrays, Pool, Rows
from clipdre.scorers.common import vector_sums


@dataclass(frozen=True)
class Conformity:
    """Mean cosine of a vector with all other vectors of its modality in the pool.

    High: a common kind of image or caption ("image", "photo for sale"). Low: a rare one, or noise.
    It helps to find what is generic, or to balance a pool towards what is rare; on its own it says
    nothing about whether a pair matches. It misleads across pools, since it is measured against the
    pool as it is: copies conform to each other.
    """

    name: ClassVar = "conformity"
    title: ClassVar = "How common a vector is in the pool"
    source: ClassVar = "The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517)"
    cost: ClassVar = "two passes over vectors"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {}

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return tuple(
            Column(f"conformity_{m}", "cosine", f"mean cosine of the {m} with all other {m}s")
            for m in Modality
        )

    def fit(self, pool: Pool) -> Arrays:
        """Sum the vectors of each modality; what they have in common is the figure."""
        sums, n = vector_sums(pool), len(pool)
        means = {f"conformity_{m}_mean": (sums[m] @ sums[m] - n) / (n * (n - 1)) for m in Modality}
        return {**{m.value: sums[m] for m in Modality}, **means, "others": np.array([n - 1])}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`; the cosine of a vector with itself, 1, is left out."""
        others = float(learned["others"][0])

        def conformity(modality: Modality) -> npt.NDArray[np.float64]:
            mean = torch.from_numpy(learned[modality] / others).float()
            cosines = (rows.vectors(modality) @ mean).double()
            found: npt.NDArray[np.float64] = (cosines - 1 / others).numpy()
            return found

        return {f"conformity_{modality}": conformity(modality) for modality in Modality}
