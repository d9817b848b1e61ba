"""Embeddings that other tools made: DataComp's metadata, clip-retrieval's output.

A layout lists its files in order and reads each as two arrays and a table with aligned rows.
Columns that mean the same as ours get our names and types; all others are passed through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipdre.core.modality import Modality
from clipdre.errors import InputError
from clipdre.formats.folders.columns import RESERVED
from clipdre.formats.folders.embeddings import PREFIXES, map_array
from clipdre.formats.folders.kept import read_kept
from clipdre.formats.folders.tables import (
    CLIP_RETRIEVAL_KEY,
    SAMPLE_SCHEMA,
    is_private,
    key_hashes,
)
from clipdre.formats.tars.samples import printable

ARCHITECTURES = {"b32": "ViT-B-32", "l14": "ViT-L-14"}
DATACOMP_SCALE = 100.0
DATACOMP_COLUMNS = {"text": "caption", "original_width": "width", "original_height": "height"}
# Columns that name a row; the first that a file has is its key.
DATACOMP_KEYS, CLIP_RETRIEVAL_KEYS = ("uid", "key"), (CLIP_RETRIEVAL_KEY, "key")
# These mean the same elsewhere as here.
SHARED = ("uid", "caption", "width", "height")
Vectors = npt.NDArray[np.floating]


class UnreadableError(Exception):
    """A file of embeddings that cannot be read."""


class Layout(Protocol):
    """How another tool stores embeddings."""

    def files(self) -> list[Path]:
        """Return the table that belongs to each file of embeddings, in order."""
        ...

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """Read images, texts and columns of one file; `UnreadableError` if it is damaged.

        Without a column that names the rows, there is no column ``key``.
        """
        ...


@dataclass(frozen=True)
class DataCompLayout:
    """``<id>.parquet`` beside ``<id>.npz`` with ``b32_img, b32_txt, l14_img, l14_txt``."""

    folder: Path
    architecture: str

    def files(self) -> list[Path]:
        """See `Layout`."""
        shown = self.folder.glob("[!.]*.parquet")
        return sorted(path for path in shown if path.with_suffix(".npz").exists())

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """See `Layout`."""
        with (
            _reading(),
            # numpy leaves a file of that name open if it is not an archive
            open(path.with_suffix(".npz"), "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            images = checked_vectors(arrays[f"{self.architecture}_img"])
            texts = checked_vectors(arrays[f"{self.architecture}_txt"])
            return images, texts, _renamed(pq.read_table(path), DATACOMP_COLUMNS, DATACOMP_KEYS)


@dataclass(frozen=True)
class ClipRetrievalLayout:
    """``metadata/metadata_<n>.parquet`` with ``img_emb/img_emb_<n>.npy`` and ``text_emb/...``."""

    folder: Path

    def files(self) -> list[Path]:
        """See `Layout`."""
        return sorted((self.folder / "metadata").glob("metadata_*.parquet"))

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """See `Layout`."""
        number = path.stem.removeprefix("metadata_")
        with _reading():
            images, texts = (
                checked_vectors(
                    map_array(self.folder / f"{prefix}_emb" / f"{prefix}_emb_{number}.npy")
                )
                for prefix in (PREFIXES[modality] for modality in Modality)
            )
            table = read_kept(pq.read_table(path))
            return images, texts, _renamed(table, {}, CLIP_RETRIEVAL_KEYS)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn whatever is raised for a damaged file into `UnreadableError`."""
    try:
        yield
    except Exception as error:  # numpy, zipfile, Arrow and zlib have no common base class
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def checked_vectors(array: npt.NDArray[Any]) -> Vectors:
    """Return an array of numbers, one vector a row; ValueError if it is something else."""
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise ValueError(f"shape {array.shape} of {array.dtype} is not one vector a row")
    return array


def find_layout(folder: Path, architecture: str) -> Layout:
    """Return the layout of a folder; `InputError` if it is unknown."""
    for layout in (DataCompLayout(folder, architecture), ClipRetrievalLayout(folder)):
        if layout.files():
            return layout
    raise InputError(
        f"{folder} holds no embeddings in a known layout",
        "expected <id>.parquet with <id>.npz (DataComp), or metadata/metadata_<n>.parquet with "
        "img_emb/ and text_emb/ (clip-retrieval)",
    )


def sample_table(columns: pa.Table, shard: str) -> tuple[pa.Table, int]:
    """Return the columns of `SAMPLE_SCHEMA`, null if unknown, followed by all other columns.

    Rows without a key have their number for a key; also returns how many those are.
    """
    n = len(columns)
    numbers = pa.array(map(str, range(n)), pa.string())
    arrays = {
        field.name: _fitted(columns[field.name].combine_chunks(), field.type)
        if field.name in columns.column_names
        else pa.nulls(n, field.type)
        for field in SAMPLE_SCHEMA
    }
    unnamed = arrays["key"].null_count
    arrays["key"] = pc.coalesce(arrays["key"], numbers)
    arrays["shard"] = pa.array([shard] * n, pa.string())
    arrays["key_hash"] = pa.array(key_hashes(shard, arrays["key"].to_pylist()))
    table = pa.table(arrays, schema=SAMPLE_SCHEMA)
    for name in columns.column_names:
        if name not in arrays:
            table = table.append_column(name, columns[name])
    return table, unnamed


def _fitted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return `values` as another type; those that do not fit become null.

    pandas stores whole numbers as floats if one of them is missing.
    """
    with suppress(pa.ArrowException):
        return values.cast(kind)
    if pa.types.is_string(kind) and _is_bytes(values.type):
        decoded = (
            v and printable(v.decode("utf-8", "surrogateescape")) for v in values.to_pylist()
        )
        return pa.array(decoded, kind)
    if pa.types.is_integer(kind):
        with suppress(pa.ArrowException):
            limits = np.iinfo(kind.to_pandas_dtype())
            numbers = values.cast(pa.float64(), safe=False)
            inside = pc.and_(
                pc.greater_equal(numbers, limits.min), pc.less_equal(numbers, limits.max)
            )
            return pc.if_else(inside, numbers, None).cast(kind, safe=False)
    return pa.nulls(len(values), kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _renamed(table: pa.Table, ours: Mapping[str, str], keys: Sequence[str]) -> pa.Table:
    """Rename columns to ours; one that has such a name by accident gets a prefix.

    Columns of SQL have no case, so one that differs from ours in case only gets it too.
    """
    names = table.column_names
    key = next((name for name in keys if name in names), None)
    kept: dict[str, int] = {}
    for index, given in enumerate(names):
        taken = given not in SHARED and (given.lower() in RESERVED or is_private(given))
        name = ours.get(given) or (f"source_{given}" if taken else given)
        if (name not in kept or given in ours) and (given != key or given in SHARED):
            kept[name] = index
    found = table.select(list(kept.values())).rename_columns(list(kept))
    if key is not None:
        found = found.append_column("key", table[key])
    return found.replace_schema_metadata(None)
