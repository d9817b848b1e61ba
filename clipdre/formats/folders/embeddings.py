"""Stored embeddings in the layout of clip-retrieval: ``img_emb/``, ``text_emb/``, ``metadata/``."""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from clipdre.core.density_ratio import unit
from clipdre.core.modality import Modality
from clipdre.errors import ScoresError
from clipdre.formats.files.parquet import (
    SCORE_AGAIN,
    count_rows,
    read_stamp,
    read_table,
    write_table,
)
from clipdre.formats.files.storage import committed, regular
from clipdre.formats.folders.tables import CLIP_RETRIEVAL_KEY
from clipdre.words import one_line

Half = npt.NDArray[np.float16]
# clip-retrieval's names for the modalities.
PREFIXES = {Modality.IMAGE: "img", Modality.TEXT: "text"}
NPY_HEADER_BYTES = 128
# Key of a stamp: the warnings about a shard, one a line.
WARNINGS = "clipdre.warnings"


@dataclass(frozen=True)
class EmbeddingFiles:
    """Paths of one shard's embeddings: number `index` of `count`."""

    folder: Path
    index: int
    count: int

    @property
    def _number(self) -> str:
        return str(self.index).zfill(len(str(self.count)))

    def array(self, modality: Modality) -> Path:
        """Return the path of the unit vectors, fp16 of shape (rows, d)."""
        prefix = PREFIXES[modality]
        return self.folder / f"{prefix}_emb" / f"{prefix}_emb_{self._number}.npy"

    def vectors(self, modality: Modality) -> Half:
        """Map the unit vectors; `ScoresError` if they are damaged."""
        path = self.array(modality)
        try:
            found = map_array(path)
            if found.ndim != 2 or found.dtype != np.float16:
                raise ValueError(f"it holds {found.dtype} of shape {found.shape}")
        except (OSError, ValueError) as error:
            raise ScoresError(f"cannot read {path} ({one_line(error)})", SCORE_AGAIN) from error
        return found

    def is_whole(self) -> bool:
        """Whether all files can be read and have the same number of rows."""
        try:
            counts = {count_rows(self.metadata), *(len(self.vectors(m)) for m in Modality)}
        except ScoresError:
            return False
        return len(counts) == 1

    @property
    def metadata(self) -> Path:
        """Path of the rows' sample columns; written last, it marks the shard as encoded."""
        return self.folder / "metadata" / f"metadata_{self._number}.parquet"

    def write(self, images: Half, texts: Half, samples: pa.Table, stamp: Mapping[str, str]) -> None:
        """Commit one shard's embeddings; `stamp` records the shard and settings behind them."""
        for modality, vectors in ((Modality.IMAGE, images), (Modality.TEXT, texts)):
            with committed(self.array(modality)) as temporary, open(temporary, "wb") as file:
                np.save(file, vectors)
        names = [CLIP_RETRIEVAL_KEY if n == "key" else n for n in samples.column_names]
        write_table(samples.rename_columns(names), self.metadata, stamp)

    def stamp(self) -> dict[str, str]:
        """Return the stamp given to `write`; empty if the shard is not encoded yet."""
        return read_stamp(self.metadata)

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings about the shard that were found when it was encoded."""
        return tuple(self.stamp().get(WARNINGS, "").splitlines())

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return the key hashes of the shard's rows, shape (rows,)."""
        hashes: npt.NDArray[np.uint64] = read_table(self.metadata, ["key_hash"])[
            "key_hash"
        ].to_numpy()
        return hashes

    def samples(self) -> pa.Table:
        """Return the sample columns of the shard's rows."""
        table = read_table(self.metadata)
        names = ["key" if name == CLIP_RETRIEVAL_KEY else name for name in table.column_names]
        return table.rename_columns(names).replace_schema_metadata(None)


def embedding_files(folder: Path, count: int) -> list[EmbeddingFiles]:
    """Return the files of all `count` shards in a folder, in order."""
    return [EmbeddingFiles(folder, index, count) for index in range(count)]


class StoredPool:
    """All pairs of a run in shard order, read from disk when they are needed.

    Raises
    ------
    ScoresError
        If a file is damaged, or the files do not belong together.
    """

    def __init__(self, shards: Sequence[EmbeddingFiles]) -> None:
        self.shards = shards
        self._arrays = {m: [shard.vectors(m) for shard in shards] for m in Modality}
        images, texts = ([array.shape for array in arrays] for arrays in self._arrays.values())
        if images != texts or len({dim for _, dim in images}) != 1:
            problem = f"the embeddings in {shards[0].folder} do not belong together"
            raise ScoresError(problem, SCORE_AGAIN)
        self.starts = [0, *accumulate(len(array) for array in self._arrays[Modality.IMAGE])]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return int(self._arrays[Modality.IMAGE][0].shape[1])

    def read(self, modality: Modality, start: int, stop: int) -> torch.Tensor:
        """Return the unit vectors of rows `start` to `stop`, float32 of shape (stop - start, d)."""
        arrays = self._arrays[modality]
        parts: list[Half] = [arrays[0][:0]]
        shard = bisect_right(self.starts, start) - 1
        while start < stop:
            first = self.starts[shard]
            part = arrays[shard][start - first : stop - first]
            parts.append(part)
            start += len(part)
            shard += 1
        return unit_rows(np.concatenate(parts))

    def take(self, modality: Modality, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the unit vectors of `rows`, in any order; float32 of shape (len(rows), d)."""
        order = np.argsort(rows)
        ascending = rows[order]
        taken = np.empty((len(rows), self.dim), np.float16)
        bounds = np.searchsorted(ascending, self.starts)
        for array, first, (low, high) in zip(
            self._arrays[modality], self.starts, pairwise(bounds), strict=False
        ):
            taken[order[low:high]] = array[ascending[low:high] - first]
        return unit_rows(taken)

    def tiles(self, modality: Modality, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield all rows in order, `size` at a time, each tile with the index of its first row."""
        for start in range(0, len(self), size):
            yield start, self.read(modality, start, min(start + size, len(self)))
        self.release(modality)

    def release(self, modality: Modality) -> None:
        """Give back the memory of what was read; every pass over the pool ends with it."""
        for array in self._arrays[modality]:
            release(array)


def map_array(path: Path) -> npt.NDArray[Any]:
    """Map an array from disk; never unpickle.

    Raises
    ------
    OSError, ValueError
        If the file cannot be opened, or does not hold an array.
    """
    size = regular(path).stat().st_size
    empty = size <= NPY_HEADER_BYTES  # numpy cannot map an array without elements
    try:
        return np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)  # type: ignore[no-any-return]
    except OSError:
        raise
    except Exception as error:  # damaged headers are parsed as Python literals
        raise ValueError(one_line(error)) from error


def release(array: npt.NDArray[Any]) -> None:
    """Give back the memory of a mapped array's pages; they are read again when needed."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def unit_rows(vectors: Half, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return stored fp16 vectors as float32 rows of length 1, shape (n, d), on `device`."""
    # Rounding to fp16 changes a norm by 1e-4, which would show at a logit scale of 100.
    return unit(torch.tensor(vectors, device=device).float())
