"""The reference of a run on disk: whatever stands for the pool's marginals, usable again.

    reference.json                how it was made, and for which model
    moments.npz                   count, mean and covariance of the pool, per modality
    bulk_img.npy, bulk_text.npy   vectors of the uniform bulk, fold behind fold; bulk_hash.npy
    pool_img.npy, pool_text.npy   all vectors, cell behind cell; pool_hash_img.npy, ...
    cells_img.npz, cells_text.npz centroids, counts, variances

`sample` has no pool, `exact` no bulk and no cells.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.cells import Cells
from clipdre.core.moments import Moments
from clipdre.errors import ScoresError
from clipdre.formats.files.storage import committed
from clipdre.formats.folders.embeddings import Half, Modality, map_array

RECORD = "reference.json"
SIDES: tuple[Modality, Modality] = ("img", "text")
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class NearRecord:
    """How the near counterparts of one modality were chosen.

    Attributes
    ----------
    cells : int
    margin : float
        Nats; see `clipdre.core.cells`.
    mass : float
        Mean share of a query's mass that is near, measured on held-out queries.
    share : float
        Mean share of the pool that is near, measured on the same.
    """

    cells: int
    margin: float
    mass: float
    share: float


@dataclass(frozen=True)
class ReferenceRecord:
    """Contents of ``reference.json``.

    Attributes
    ----------
    method : str
        ``exact``, ``stratified`` or ``sample``.
    pairs : int
        Pairs of the pool that the reference stands for.
    bulk, folds, neighbors : int
        Size of the uniform bulk, its folds, and how many must be near on average; 0 where unused.
    near : dict
        Modality to `NearRecord`; empty unless stratified.
    """

    method: str
    pairs: int
    bulk: int
    folds: int
    neighbors: int
    model_digest: str
    logit_scale: float
    logit_bias: float
    embedding_dim: int
    digest: str
    near: dict[str, NearRecord] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> ReferenceRecord:
        """The record as `dataclasses.asdict` gave it; KeyError or TypeError when it is none."""
        near = {side: NearRecord(**record) for side, record in raw["near"].items()}
        return cls(**{**raw, "near": near})


@dataclass(frozen=True)
class ReferenceFolder:
    """Reads and writes the files of one reference."""

    path: Path

    def record(self) -> ReferenceRecord | None:
        """The record of a whole reference; None when there is none."""
        try:
            raw = (self.path / RECORD).read_text(encoding="utf-8")
            return ReferenceRecord.from_dict(json.loads(raw))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ScoresError(f"{self.path / RECORD} is damaged ({error}): score again") from error

    def write_record(self, record: ReferenceRecord) -> None:
        """Written last: the reference is whole."""
        with committed(self.path / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")

    def write(self, name: str, array: npt.NDArray[np.generic]) -> None:
        """Write one array."""
        with committed(self.path / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)

    @contextmanager
    def writing(self, name: str, shape: tuple[int, int]) -> Iterator[Half]:
        """An fp16 array on disk to fill in any order."""
        with committed(self.path / f"{name}.npy") as temporary:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            yield mapped
            mapped.flush()

    def array(self, name: str) -> npt.NDArray[Any]:
        """One array, mapped, not read."""
        return map_array(self.path / f"{name}.npy")

    def write_moments(self, moments: dict[Modality, Moments]) -> None:
        """Write the moments of both modalities."""
        arrays = {
            f"{side}_{name}": np.asarray(getattr(moments[side], name))
            for side in SIDES
            for name in ("count", "mean", "covariance")
        }
        with committed(self.path / "moments.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def moments(self, side: Modality) -> Moments:
        """The moments of one modality."""
        arrays = self._archive("moments.npz")
        return Moments(
            int(arrays[f"{side}_count"]),
            torch.from_numpy(arrays[f"{side}_mean"]),
            torch.from_numpy(arrays[f"{side}_covariance"]),
        )

    def write_cells(self, side: Modality, cells: Cells) -> None:
        """Write the cells of one modality."""
        arrays = {name: value.numpy() for name, value in vars(cells).items()}
        with committed(self.path / f"cells_{side}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def cells(self, side: Modality) -> Cells:
        """The cells of one modality."""
        arrays = self._archive(f"cells_{side}.npz")
        return Cells(**{name: torch.from_numpy(value) for name, value in arrays.items()})

    def _archive(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        try:
            with np.load(self.path / name, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ScoresError(f"{self.path / name} is damaged ({error}): score again") from error
