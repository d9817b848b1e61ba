"""Likelihood of a vector under a normal distribution, after whitening."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting

# A variance far below that of rounding to fp16, for pools whose vectors are all the same.
SMALLEST = 1e-12


@dataclass(frozen=True)
class Whitened:
    """Log density of a vector under the standard normal, after its modality's pool is whitened.

    High: images and captions of common kinds; low: unusual ones, such as renderings, collages,
    artefacts, or long and odd captions. It helps to find outliers in directions in which the pool
    varies little, which a distance from the mean does not see. It misleads where the pool has fewer
    rows than several times the length of the vectors: directions that hold nothing but rounding
    errors then decide, which `--floor` limits.
    """

    name: ClassVar = "whitened"
    title: ClassVar = "Likelihood of image and caption in their own pools"
    source: ClassVar = "Whitened CLIP as a Likelihood Surrogate (arXiv 2505.06934)"
    cost: ClassVar = "two passes over vectors"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {}

    floor: float = setting(
        "Raise smaller eigenvalues of the covariance to this share of the largest.", default=1e-6
    )

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        meaning = "log likelihood of the whitened"
        return tuple(
            Column(f"likelihood_{m}", "nats", f"{meaning} {m}; low is unusual", "high")
            for m in Modality
        )

    def fit(self, pool: Pool) -> Arrays:
        """Whiten each modality: mean, matrix, and how many eigenvalues were raised."""
        if not 0 < self.floor <= 1:
            raise UsageError(f"`floor` {self.floor} is not a share", "use a number in (0, 1]")
        parts = pool.reduce("moments", _moments, _merged)
        learned: Arrays = {}
        for modality in Modality:
            moments = _read(parts, modality)
            values, vectors = torch.linalg.eigh(moments.covariance)
            raised = values.clamp(min=max(self.floor * float(values[-1]), SMALLEST))
            learned[f"mean_of_{modality}"] = moments.mean.numpy()
            learned[f"whitening_{modality}"] = (vectors / raised.sqrt()).numpy()
            learned[f"raised_{modality}"] = (raised > values).sum().numpy()
        return learned

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""

        def likelihood(modality: Modality) -> npt.NDArray[np.float64]:
            mean, matrix = (
                torch.from_numpy(learned[f"{name}_{modality}"]) for name in ("mean_of", "whitening")
            )
            white = (rows.vectors(modality).double() - mean) @ matrix
            constant = len(mean) * math.log(2 * math.pi)
            found: npt.NDArray[np.float64] = (-(constant + (white**2).sum(dim=1)) / 2).numpy()
            return found

        return {f"likelihood_{modality}": likelihood(modality) for modality in Modality}


def _moments(rows: Rows) -> Arrays:
    return _written({m: Moments.of(rows.vectors(m).double()) for m in Modality})


def _merged(first: Arrays, second: Arrays) -> Arrays:
    return _written({m: _read(first, m).merge(_read(second, m)) for m in Modality})


def _written(moments: Mapping[Modality, Moments]) -> Arrays:
    return {
        f"{name}_{modality}": np.asarray(getattr(of, name))
        for modality, of in moments.items()
        for name in ("count", "mean", "covariance")
    }


def _read(arrays: Arrays, modality: Modality) -> Moments:
    mean, covariance = (
        torch.from_numpy(arrays[f"{name}_{modality}"]) for name in ("mean", "covariance")
    )
    return Moments(int(arrays[f"count_{modality}"]), mean, covariance)
