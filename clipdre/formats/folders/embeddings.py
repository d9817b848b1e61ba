"""Stored embeddings in the layout of clip-retrieval: ``img_emb/``, ``text_emb/``, ``metadata/``."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
    list_columns,
    read_stamp,
    read_table,
    write_table,
)
from clipdre.formats.files.storage import committed, regular
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.tables import CLIP_RETRIEVAL_KEY
from clipdre.words import one_line

Half = npt.NDArray[np.float16]
# As vectors are stored: fp16 ones have length 1, fp32 ones any length.
Stored = npt.NDArray[np.floating]
STORED = (np.float16, np.float32)
# Between these, fourth powers of lengths (`dw_image`) are numbers of 32 bits.
SHORTEST, LONGEST = 1e-9, 1e9
CHECKED_ROWS = 8192
# clip-retrieval's names for the modalities.
PREFIXES = {Modality.IMAGE: "img", Modality.TEXT: "text"}
NPY_HEADER_BYTES = 128
# Key of a stamp: the warnings about a shard, one a line.
WARNINGS = "clipdre.warnings"
# Key of a stamp: the sample of the shard's content.
SAMPLE = "clipdre.sample"
NO_SPANS = (
    "was encoded by a clipdre that did not record where images are, so image_offset is null; pass "
    "`overwrite` to encode it again"
)
# Bits of a 16-bit float that are all set if it is infinite or NaN.
EXPONENT = 0x7C00


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
        """Return the path of the vectors, `Stored` of shape (rows, d)."""
        prefix = PREFIXES[modality]
        return self.folder / f"{prefix}_emb" / f"{prefix}_emb_{self._number}.npy"

    @property
    def paths(self) -> list[Path]:
        """Paths of all files."""
        return [*map(self.array, Modality), self.metadata]

    def layout(self, modality: Modality) -> Layout:
        """Return shape and type of the vectors; `ScoresError` if they are damaged."""
        return _stored_layout(self.array(modality))

    def is_whole(self) -> bool:
        """Whether all files can be read and have the same number of rows."""
        try:
            counts = {count_rows(self.metadata), *(self.layout(m).rows for m in Modality)}
        except ScoresError:
            return False
        return len(counts) == 1

    @property
    def metadata(self) -> Path:
        """Path of the rows' sample columns; written last, it marks the shard as encoded."""
        return self.folder / "metadata" / f"metadata_{self._number}.parquet"

    def write(
        self, images: Stored, texts: Stored, samples: pa.Table, stamp: Mapping[str, str]
    ) -> None:
        """Commit one shard's embeddings; `stamp` records the shard and settings behind them.

        What the schema of `samples` says of them becomes a part of the stamp.
        """
        for modality, vectors in ((Modality.IMAGE, images), (Modality.TEXT, texts)):
            with committed(self.array(modality)) as temporary, open(temporary, "wb") as file:
                np.save(file, vectors)
        names = [CLIP_RETRIEVAL_KEY if n == "key" else n for n in samples.column_names]
        renamed = samples.rename_columns(names).replace_schema_metadata(samples.schema.metadata)
        write_table(renamed, self.metadata, stamp)

    def stamp(self) -> dict[str, str]:
        """Return the stamp given to `write`; empty if the shard is not encoded yet."""
        return read_stamp(self.metadata)

    def warnings(self, *, of_tar: bool) -> tuple[str, ...]:
        """Return the warnings about the shard that were found when it was encoded.

        One more is added if it was a tar, and it was not recorded where images are in it.
        """
        found = self.stamp().get(WARNINGS, "").splitlines()
        old = of_tar and "image_offset" not in list_columns(self.metadata)
        return (*found, NO_SPANS) if old else tuple(found)

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return the key hashes of the shard's rows, shape (rows,)."""
        table = read_table(self.metadata, ["key_hash"])
        hashes: npt.NDArray[np.uint64] = table["key_hash"].to_numpy()
        return hashes

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return where the sample of each row begins: rows with one offset share their image."""
        table = read_table(self.metadata, ["offset"])
        offsets: npt.NDArray[np.int64] = table["offset"].to_numpy()
        return offsets

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

    A file is open only while it is read, so that a pool may have more of them than a process may
    open or map.

    Raises
    ------
    ScoresError
        If a file is damaged, or the files do not belong together.
    """

    def __init__(self, shards: Sequence[EmbeddingFiles]) -> None:
        self.shards = shards
        images, texts = ([shard.layout(m) for shard in shards] for m in Modality)
        if images != texts or len({(found.dim, found.kind) for found in images}) != 1:
            problem = f"the embeddings in {shards[0].folder} do not belong together"
            raise ScoresError(problem, SCORE_AGAIN)
        self.starts = [0, *accumulate(found.rows for found in images)]
        self.dim, self._kind = images[0].dim, images[0].kind
        self._scaled = False

    @property
    def has_lengths(self) -> bool:
        """Whether vectors are of any length, so that inner products are not cosines."""
        return self._kind == np.float32 and not self._scaled

    @property
    def directions(self) -> StoredPool:
        """The same pool with all vectors scaled to length 1, for what compares cosines."""
        found = copy(self)
        found._scaled = True
        return found

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, modality: Modality, start: int, stop: int) -> torch.Tensor:
        """Return the vectors of rows `start` to `stop`, float32 of shape (stop - start, d)."""
        return float_rows(self.stored(modality, np.arange(start, stop)))

    def take(self, modality: Modality, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the vectors of `rows`, in any order; float32 of shape (len(rows), d)."""
        ascending, places = np.unique(rows, return_inverse=True)
        return float_rows(self.stored(modality, ascending)[places])

    def tiles(self, modality: Modality, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield all rows in order, `size` at a time, each tile with the index of its first row."""
        for start in range(0, len(self), size):
            yield start, self.read(modality, start, min(start + size, len(self)))

    def stored(self, modality: Modality, rows: npt.NDArray[np.int64]) -> Stored:
        """Return the stored vectors of distinct ascending `rows`, shape (len(rows), d)."""
        vectors = np.empty((len(rows), self.dim), self._kind)
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        for low, high in _equal_runs(shards):
            shard = int(shards[low])
            path = self.shards[shard].array(modality)
            size = self.starts[shard + 1] - self.starts[shard]
            _read_rows(path, size, rows[low:high] - self.starts[shard], vectors[low:high])
        return unit_half(vectors) if self._scaled and self._kind != np.float16 else vectors


def pool_of(folder: ScoreFolder, manifest: Manifest) -> StoredPool:
    """Return the vectors of all pairs of a score folder.

    Raises
    ------
    ScoresError
        If the score folder has no embeddings, or they are damaged or not those of the scores.
    """
    folder.store.fetch(folder.embeddings)
    if not folder.embeddings.exists():
        raise ScoresError(
            f"{folder.path} keeps no embeddings", "score again without `discard_embeddings`"
        )
    pool = StoredPool(embedding_files(folder.embeddings, len(manifest.shards)))
    if pool.starts != manifest.starts or pool.has_lengths != manifest.model.inner_product:
        raise ScoresError(
            f"the embeddings in {folder.embeddings} are not those of the scores", SCORE_AGAIN
        )
    return pool


class Layout(NamedTuple):
    """Shape (rows, dim) and type of stored vectors."""

    rows: int
    dim: int
    kind: np.dtype[np.floating]


def _stored_layout(path: Path) -> Layout:
    """Return the layout of stored vectors from the header of their file."""
    try:
        with open(regular(path), "rb") as file:
            np.lib.format.read_magic(file)
            shape, by_column, kind = np.lib.format.read_array_header_1_0(file)
            if by_column or kind not in STORED or len(shape) != 2:
                raise ValueError(f"{kind} of shape {shape}")
            rows, dim = shape
            _check_size(file, rows, dim * kind.itemsize)
            return Layout(rows, dim, kind)
    except Exception as error:  # damaged headers are parsed as Python literals
        raise _damaged(path, one_line(error)) from error


def _check_size(file: BinaryIO, rows: int, row_bytes: int) -> None:
    nbytes = NPY_HEADER_BYTES + rows * row_bytes
    if file.seek(0, os.SEEK_END) != nbytes:
        raise ValueError(f"not of {rows} rows")


def _read_rows(path: Path, size: int, rows: npt.NDArray[np.int64], vectors: Stored) -> None:
    """Read distinct ascending `rows` of a file of `size` vectors into `vectors`."""
    row_bytes = vectors.itemsize * vectors.shape[1]
    try:
        with open(regular(path), "rb") as file:
            _check_size(file, size, row_bytes)
            for low, high in _equal_runs(rows - np.arange(len(rows))):
                file.seek(NPY_HEADER_BYTES + int(rows[low]) * row_bytes)
                file.readinto(vectors[low:high].data)
        if not _is_finite(vectors):
            raise ValueError("not all numbers are finite")
    except (OSError, ValueError) as error:
        raise _damaged(path, one_line(error)) from error


def _is_finite(vectors: Stored) -> bool:
    if vectors.dtype != np.float16:
        return bool(np.isfinite(vectors).all())
    return not (vectors.view(np.uint16) & EXPONENT == EXPONENT).any()


def _damaged(path: Path, reason: str) -> ScoresError:
    return ScoresError(f"{path} is damaged ({reason})", SCORE_AGAIN)


def _equal_runs(values: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of equal values."""
    if len(values):
        cuts = (np.flatnonzero(np.diff(values)) + 1).tolist()
        yield from pairwise([0, *cuts, len(values)])


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


def release(array: object) -> None:
    """Give back the memory of a mapped array's pages; they are read again when needed."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def stored_type(inner_product: bool) -> type[np.floating]:
    """Return the type in which vectors are stored: fp32 if they are of any length."""
    return np.float32 if inner_product else np.float16


def float_rows(vectors: Stored, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return stored vectors as float32 rows, shape (n, d), on `device`; of fp16, of length 1."""
    found = torch.tensor(vectors, device=device)
    # Rounding to fp16 changes a norm by 1e-4, which would show at a logit scale of 100.
    return unit(found.float()) if found.dtype == torch.float16 else found


def unit_half(vectors: Stored) -> Half:
    """Scale vectors of any length to length 1, and round them to fp16."""
    halved: Half = unit(torch.from_numpy(vectors)).half().numpy()
    return halved


def are_usable(vectors: Stored) -> npt.NDArray[np.bool_]:
    """Return whether each vector has a direction, and a length between `SHORTEST` and `LONGEST`.

    One with a number that is not finite has neither.
    """
    usable = np.empty(len(vectors), bool)
    for start in range(0, len(vectors), CHECKED_ROWS):  # fp16 is copied to fp32
        part = torch.from_numpy(vectors[start : start + CHECKED_ROWS])
        lengths = torch.linalg.vector_norm(part, dim=1, dtype=torch.float32)
        usable[start : start + CHECKED_ROWS] = (lengths >= SHORTEST) & (lengths <= LONGEST)
    return usable
