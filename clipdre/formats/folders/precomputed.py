"""Embeddings that other tools made: DataComp's metadata, clip-retrieval's output.

A layout lists its files in order and reads each as two arrays and a table with aligned rows.
Columns that mean the same as ours get our names; all others are passed through.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.core.modality import Modality
from clipdre.core.scores import SCORES
from clipdre.errors import InputError
from clipdre.formats.folders.embeddings import PREFIXES, Half, map_array
from clipdre.formats.folders.tables import CLIP_RETRIEVAL_KEY, SAMPLE_SCHEMA, is_private

ARCHITECTURES = {"b32": "ViT-B-32", "l14": "ViT-L-14"}
DATACOMP_SCALE = 100.0
DATACOMP_COLUMNS = {"text": "caption", "original_width": "width", "original_height": "height"}
CLIP_RETRIEVAL_COLUMNS = {CLIP_RETRIEVAL_KEY: "key"}
RESERVED = {*SAMPLE_SCHEMA.names, *(score.column.name for score in SCORES)}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowInvalid)
Vectors = npt.NDArray[np.floating]


class UnreadableError(Exception):
    """A file of embeddings that cannot be read."""


class Layout(Protocol):
    """How another tool stores embeddings."""

    def files(self) -> list[Path]:
        """Return the table that belongs to each file of embeddings, in order."""
        ...

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """Read images, texts and columns of one file; `UnreadableError` if it is damaged."""
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
        try:
            # numpy leaves a file of that name open if it is not an archive
            with (
                open(path.with_suffix(".npz"), "rb") as file,
                np.load(file, allow_pickle=False) as arrays,
            ):
                images = arrays[f"{self.architecture}_img"]
                texts = arrays[f"{self.architecture}_txt"]
            table = pq.read_table(path)
            columns = _renamed(table, DATACOMP_COLUMNS)
            return images, texts, columns.append_column("key", table["uid"])
        except UNREADABLE as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class ClipRetrievalLayout:
    """``metadata/metadata_<n>.parquet`` with ``img_emb/img_emb_<n>.npy`` and ``text_emb/...``."""

    folder: Path

    def files(self) -> list[Path]:
        """See `Layout`."""
        return sorted((self.folder / "metadata").glob("metadata_*.parquet"))

    def read(self, path: Path) -> tuple[Half, Half, pa.Table]:
        """See `Layout`."""
        number = path.stem.removeprefix("metadata_")
        try:
            images, texts = (
                map_array(self.folder / f"{prefix}_emb" / f"{prefix}_emb_{number}.npy")
                for prefix in (PREFIXES[modality] for modality in Modality)
            )
            return images, texts, _renamed(pq.read_table(path), CLIP_RETRIEVAL_COLUMNS)
        except UNREADABLE as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error


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


def sample_table(columns: pa.Table, shard: str, hashes: npt.NDArray[np.uint64]) -> pa.Table:
    """Return the columns of `SAMPLE_SCHEMA`, null if unknown, followed by all other columns."""
    n = len(columns)
    known: Mapping[str, pa.Array] = {
        "shard": pa.array([shard] * n, pa.string()),
        "key_hash": pa.array(hashes),
    }
    arrays = []
    for name in SAMPLE_SCHEMA.names:
        kind = SAMPLE_SCHEMA.field(name).type
        if name in known:
            arrays.append(known[name])
        elif name in columns.column_names:
            arrays.append(columns[name].cast(kind))
        else:
            arrays.append(pa.nulls(n, kind))
    table = pa.table(arrays, schema=SAMPLE_SCHEMA)
    for name in columns.column_names:
        if name not in SAMPLE_SCHEMA.names:
            table = table.append_column(name, columns[name])
    return table


def _renamed(table: pa.Table, ours: Mapping[str, str]) -> pa.Table:
    """Rename columns to ours; one that has such a name by accident gets a prefix."""
    names = [
        ours.get(name) or (f"source_{name}" if _is_reserved(name) else name)
        for name in table.column_names
    ]
    kept: dict[str, int] = {}
    for index, (name, given) in enumerate(zip(names, table.column_names, strict=True)):
        if name not in kept or given in ours:
            kept[name] = index
    return (
        table.select(list(kept.values())).rename_columns(list(kept)).replace_schema_metadata(None)
    )


def _is_reserved(name: str) -> bool:
    """Return whether a column would be taken for one of ours; SQL does not see upper case."""
    is_known = name in ("uid", "caption", "width", "height")
    return not is_known and (name.lower() in RESERVED or is_private(name))
