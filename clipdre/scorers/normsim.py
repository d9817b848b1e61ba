"""NormSim: how close a pair's vector comes to a target data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.scorers.base import Arrays, Pool, Rows, setting

TARGET_ROWS = 2048


class Norm(StrEnum):
    """Norm of the cosines with the target."""

    MAX = "inf"
    TWO = "2"


@dataclass(frozen=True)
class NormSim:
    """``||G v||_p`` over the unit vectors G of a target set: p = inf is the largest cosine.

    It helps if the target stands for what the model is for, such as the training sets of its
    evaluation: of the pairs that match, keep those whose images are like the target's (recipe
    `negcliploss-normsim`). p = 2 prefers what many images of the target are like, p = inf what any
    of them is like. It says nothing about whether a pair matches, so filter by `negcliploss` or
    `log_ratio` first. It misleads where the target is narrow: what it does not show is dropped,
    whatever its worth. `normsim-dynamic` needs no target.
    """

    name: ClassVar = "normsim"
    title: ClassVar = "Closeness of the image to a target data set"
    source: ClassVar = "Wang et al., NeurIPS 2024 (arXiv 2405.19547)"
    cost: ClassVar = "one pass over vectors, times the target"
    version: ClassVar = 1
    example: ClassVar = {"target": "SCORES"}  # any score folder of the same model

    target: str = setting("Score folder, folder of embeddings, or .npy file of the target.")
    norm: Norm = setting("inf: largest cosine; 2: root of the sum of squares.", default=Norm.MAX)
    modality: Modality = setting("Vectors to compare with the target's.", default=Modality.IMAGE)

    def __post_init__(self) -> None:
        """Name the target so that the column's record holds in any working directory."""
        object.__setattr__(self, "target", str(Path(self.target).absolute()))

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        meaning = f"NormSim-{self.norm.value} of the {self.modality} to the target"
        return (Column("normsim", "cosine" if self.norm is Norm.MAX else "", meaning, "high"),)

    def fit(self, pool: Pool) -> Arrays:
        """Read the target; for p = 2 its second moment is all that is needed."""
        tiles = pool.target(self.target, self.modality)
        if self.norm is Norm.MAX:
            return {"target": torch.cat(list(tiles)).numpy()}
        return {"moment": np.sum([(tile.T @ tile).double().numpy() for tile in tiles], axis=0)}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        vectors = rows.vectors(self.modality)
        if self.norm is Norm.MAX:
            target = torch.split(torch.from_numpy(learned["target"]), TARGET_ROWS)
            largest = torch.stack([(vectors @ part.T).amax(dim=1) for part in target])
            return {"normsim": largest.amax(dim=0).numpy()}
        products = vectors.double() @ torch.from_numpy(learned["moment"])
        return {"normsim": (products * vectors).sum(dim=1).clamp(min=0).sqrt().numpy()}
