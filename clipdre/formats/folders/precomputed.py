"""Embeddings that other tools made: DataComp's metadata, clip-retrieval's output.

Each layout gives its files in order, and of each file two arrays and a table, rows aligned. Columns
get our names where they mean the same; all others are passed through.
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

from clipdre.errors import InputError
from clipdre.formats.folders.embeddings import Half, map_array
from clipdre.formats.folders.tables import CLIP_RETRIEVAL_KEY, SAMPLE_SCHEMA, SCORE_COLUMNS

ARCHITECTURES = {"b32": "ViT-B-32", "l14": "ViT-L-14"}
DATACOMP_SCALE = 100.0
DATACOMP_COLUMNS = {"text": "caption", "original_width": "width", "original_height": "height"}
CLIP_RETRIEVAL_COLUMNS = {CLIP_RETRIEVAL_KEY: "key"}
RESERVED = {*SAMPLE_SCHEMA.names, *SCORE_COLUMNS, "log_ratio_tau", "file_index", "file_row_number"}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowInvalid)
Vectors = npt.NDArray[np.floating]


class UnreadableError(Exception):
    """A file of embeddings that cannot be read."""


class Layout(Protocol):
    """How another tool lays embeddings out."""

    def files(self) -> list[Path]:
        """The table of each file of embeddings, in order."""
        ...

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """Images, texts and columns of one file; `UnreadableError` when it is damaged."""
        ...


@dataclass(frozen=True)
class DataCompLayout:
    """``<id>.parquet`` beside ``<id>.npz`` with ``b32_img, b32_txt, l14_img, l14_txt``."""

    folder: Path
    architecture: str

    def files(self) -> list[Path]:
        """See `Layout`."""
        return sorted(p for p in self.folder.glob("*.parquet") if p.with_suffix(".npz").exists())

    def read(self, path: Path) -> tuple[Vectors, Vectors, pa.Table]:
        """See `Layout`."""
        try:
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
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
                map_array(self.folder / f"{side}_emb" / f"{side}_emb_{number}.npy")
                for side in ("img", "text")
            )
            return images, texts, _renamed(pq.read_table(path), CLIP_RETRIEVAL_COLUMNS)
        except UNREADABLE as error:
            raise UnreadableError(f"{type(error).__name__}: {error}") from error


def find_layout(folder: Path, architecture: str) -> Layout:
    """The layout of a folder; `InputError` when it is none that is known."""
    for layout in (DataCompLayout(folder, architecture), ClipRetrievalLayout(folder)):
        if layout.files():
            return layout
    raise InputError(
        f"{folder} holds no embeddings that clipdre knows: neither <id>.parquet with <id>.npz "
        "(DataComp) nor metadata/metadata_<n>.parquet with img_emb/ and text_emb/ (clip-retrieval)"
    )


def sample_table(columns: pa.Table, shard: str, hashes: npt.NDArray[np.uint64]) -> pa.Table:
    """The sample columns of `SAMPLE_SCHEMA`, null where unknown, and all others behind them."""
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
    """Columns under our names; one that only happens to have such a name gets a prefix."""
    reserved = RESERVED - {"uid", "caption", "width", "height"}
    names = [
        ours.get(name) or (f"source_{name}" if name in reserved else name)
        for name in table.column_names
    ]
    kept: dict[str, int] = {}
    for index, name in enumerate(names):
        if name not in kept or name in ours.values():
            kept.setdefault(name, index)
    return (
        table.select(list(kept.values())).rename_columns(list(kept)).replace_schema_metadata(None)
    )
