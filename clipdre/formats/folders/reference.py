"""The reference of a run on disk: what stands for the pool's marginals, usable by other runs.

    reference.json                    how it was made, and for which model
    moments.npz                       count, mean and covariance of the pool, per modality
    bulk_image.npy, bulk_text.npy     vectors of the uniform bulk, fold by fold; bulk_hash.npy
    pool_image.npy, pool_text.npy     all vectors, cell by cell, in each by half of the pool;
                                      pool_hash_image.npy, pool_group_image.npy, ...
    cells_image.npz, cells_text.npz   centroids, counts, variances
    group_count.npy                   size of each group of alike pairs, by half of the pool
    group_sum_image.npy, ...          sum of each group's vectors
    alike.npz                         the row that leads each row's group, and a digest

A `sample` reference has no pool, an `exact` one no bulk and no cells. Vectors of more than 1 GiB
are in several files, ``pool_image_00000.npy`` and so on, because each has a single writer. Folders
of schema 1 have ``img`` in the place of ``image``; they can be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.errors import ScoresError
from clipdre.formats.files.storage import committed, regular
from clipdre.formats.folders.embeddings import map_array
from clipdre.formats.folders.records import ReferenceRecord, upgraded
from clipdre.formats.folders.stacked import Rows, StackedRows
from clipdre.words import one_line

RECORD = "reference.json"
LEADERS = "alike.npz"
CURE = "score that pool again with `overwrite`"
MOST_PAIRS = 2**48
SEGMENT_BYTES, SEGMENT_DIGITS = 2**30, 5
Hashes = npt.NDArray[np.uint64]


def segment(name: str, number: int, count: int) -> str:
    """Return the name of one of the `count` files that hold the rows of an array."""
    return name if count == 1 else f"{name}_{number:0{SEGMENT_DIGITS}d}"


@dataclass(frozen=True)
class ReferenceFolder:
    """Reads and writes the files of one reference."""

    path: Path

    def record(self) -> ReferenceRecord | None:
        """Return the record of a complete reference; None if there is none."""
        try:
            raw = json.loads(regular(self.path / RECORD).read_bytes())
            found = msgspec.convert(upgraded(raw), type=ReferenceRecord)
            if found.method == "stratified" and set(found.near) != set(Modality):
                raise ValueError("it does not say what is near")
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = f"{self.path / RECORD} is damaged or from another version ({error})"
            raise ScoresError(problem, CURE) from error

    def write_record(self, record: ReferenceRecord) -> None:
        """Write the record, last of all: the reference is complete."""
        with committed(self.path / RECORD) as temporary:
            temporary.write_bytes(record.encoded())

    def write(self, name: str, array: npt.NDArray[np.generic]) -> None:
        """Write one array."""
        with committed(self.path / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)

    @contextmanager
    def writing(
        self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float16
    ) -> Iterator[npt.NDArray[Any]]:
        """Yield an array of zeros on disk to fill in any order."""
        with committed(self.path / f"{name}.npy") as temporary:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            yield mapped
            mapped.flush()

    def array(self, name: str, kind: npt.DTypeLike, *shape: int | None) -> npt.NDArray[Any]:
        """Map one array, which must be of this kind and shape; None stands for any length."""
        with self._reading(f"{name}.npy") as path:
            return _checked(map_array(path), kind, *shape)

    def rows(self, name: str, kind: npt.DTypeLike, rows: int, dim: int) -> Rows:
        """Map the rows of an array that may be in several files; see `segment`."""
        paths = sorted(self.path.glob(f"{name}_{'[0-9]' * SEGMENT_DIGITS}.npy"))
        if not paths or self._found(f"{name}.npy").exists():
            return self.array(name, kind, rows, dim)
        lengths = (len(self.array(path.stem, kind, None, dim)) for path in paths)
        stacked = StackedRows.of(paths, lengths)
        if len(stacked) != rows:
            raise ScoresError(f"{self.path} has {len(stacked):,} of {rows:,} rows of {name}", CURE)
        return stacked

    def keep_segments(self, name: str, count: int) -> None:
        """Remove files of an earlier array of this name that was in another number of them."""
        kept = {f"{segment(name, n, count)}.npy" for n in range(count)}
        for path in (self.path / f"{name}.npy", *self.path.glob(f"{name}_[0-9]*.npy")):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def write_leaders(self, leaders: npt.NDArray[np.int64], digest: str) -> None:
        """Write which row leads each row's group of alike pairs."""
        with committed(self.path / LEADERS) as temporary, open(temporary, "wb") as file:
            np.savez(file, leaders=leaders, digest=np.array(digest))

    def leaders(self, digest: str, rows: int) -> npt.NDArray[np.int64] | None:
        """Return what `write_leaders` wrote of `rows` with this digest; None if there is none."""
        with suppress(ScoresError), self._archive(LEADERS) as found:
            if str(found.get("digest")) == digest:
                return _are_leaders(_checked(found["leaders"], np.int64, rows))
        return None

    def write_moments(self, moments: dict[Modality, Moments]) -> None:
        """Write the moments of both modalities."""
        arrays = {
            f"{modality}_{name}": np.asarray(getattr(moments[modality], name))
            for modality in Modality
            for name in ("count", "mean", "covariance")
        }
        with committed(self.path / "moments.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def moments(self, modality: Modality, dim: int) -> Moments:
        """Read the moments of one modality, of vectors with `dim` dimensions."""
        with self._archive("moments.npz") as arrays:
            count = float(arrays[f"{modality}_count"])
            mean = _checked(arrays[f"{modality}_mean"], np.float64, dim)
            covariance = _checked(arrays[f"{modality}_covariance"], np.float64, dim, dim)
            if not 0 <= count <= MOST_PAIRS or not np.isfinite(mean).all():
                raise ValueError("these are not the moments of a pool")
            return Moments(int(count), torch.from_numpy(mean), torch.from_numpy(covariance))

    def write_cells(self, modality: Modality, cells: Cells) -> None:
        """Write the cells of one modality."""
        arrays = {name: value.numpy() for name, value in vars(cells).items()}
        path = self.path / f"cells_{modality}.npz"
        with committed(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def cells(self, modality: Modality, dim: int, pairs: int) -> Cells:
        """Read the cells of one modality, of vectors with `dim` dimensions, for so many pairs."""
        with self._archive(f"cells_{modality}.npz") as arrays:
            counts = _checked(arrays["counts"], np.int64, None)
            count = len(counts)
            if ((counts < 0) | (counts > pairs)).any() or counts.sum() != pairs:
                raise ValueError(f"the cells do not hold {pairs:,} pairs")
            return Cells(
                torch.from_numpy(_checked(arrays["centroids"], np.float32, count, dim)),
                torch.from_numpy(counts),
                torch.from_numpy(_checked(arrays["variances"], np.float32, count)),
            )

    @contextmanager
    def _archive(self, name: str) -> Iterator[dict[str, npt.NDArray[Any]]]:
        with (
            self._reading(name) as path,
            # numpy leaves a file of that name open if it is not an archive
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            # Our own are not compressed, so that they are no larger than their file.
            if any(member.compress_type != ZIP_STORED for member in archive.zip.infolist()):
                raise ValueError("it is compressed")
            yield {key.replace("img_", "image_"): archive[key] for key in archive.files}

    @contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        """Yield the path of a file; whatever is raised for a damaged one becomes `ScoresError`."""
        path = self._found(name)
        try:
            yield regular(path)
        except Exception as error:  # numpy and zipfile have no common base class
            raise ScoresError(f"{path} is damaged ({one_line(error)})", CURE) from error

    def _found(self, name: str) -> Path:
        """Return the path of a file, which schema 1 may have named otherwise."""
        path, older = self.path / name, self.path / name.replace("image", "img")
        return older if older.exists() and not path.exists() else path


def _are_leaders(leaders: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return rows that lead the groups of rows, if each leads its own group."""
    inside = (leaders >= 0) & (leaders < len(leaders))
    if not inside.all() or (leaders[leaders] != leaders).any():
        raise ValueError("these rows do not lead groups")
    return leaders


def _checked(array: npt.NDArray[Any], kind: npt.DTypeLike, *shape: int | None) -> npt.NDArray[Any]:
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if array.dtype != kind or not fits:
        raise ValueError(f"{array.dtype} of shape {array.shape} instead of {shape}")
    return array
