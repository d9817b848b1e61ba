"""Parquet files that appear atomically, with a stamp that records what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.errors import ScoresError
from clipdre.formats.files.storage import committed, regular
from clipdre.words import one_line

# What reading a damaged file raises.
UNREADABLE = (OSError, MemoryError, pa.ArrowException)
SCORE_AGAIN = "score again with `overwrite`"


def write_table(table: pa.Table, path: Path, stamp: Mapping[str, str] | None = None) -> None:
    """Write Parquet atomically, with `stamp` in the metadata of the file."""
    with committed(path) as temporary:
        save_table(table, temporary, stamp)


def save_table(table: pa.Table, path: Path, stamp: Mapping[str, str] | None = None) -> None:
    """Write Parquet to a path that the caller commits."""
    # Arrow's keys are bytes: a key given as str would be stored twice and read as the old one.
    metadata = dict(table.schema.metadata or {})
    metadata |= {key.encode(): value.encode() for key, value in (stamp or {}).items()}
    table = table.replace_schema_metadata(metadata)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        if len(table):  # some readers, such as Hugging Face datasets, fail at an empty row group
            writer.write_table(table)


def read_stamp(source: Path | BinaryIO) -> dict[str, str]:
    """Return the stamp of a Parquet file, empty if the file is missing or damaged."""
    try:
        file = regular(source) if isinstance(source, Path) else source
        metadata = pq.read_schema(file).metadata or {}
        return {k.decode(): v.decode() for k, v in metadata.items() if k != b"ARROW:schema"}
    except (*UNREADABLE, UnicodeDecodeError):
        return {}


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a Parquet file of a score folder; `ScoresError` if it is damaged."""
    with _reading(path):
        return pq.read_table(regular(path), columns=columns)


def count_rows(path: Path) -> int:
    """Return the number of rows of a file of a score folder; `ScoresError` if it is damaged."""
    with _reading(path):
        return int(pq.read_metadata(regular(path)).num_rows)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ScoresError(f"cannot read {path} ({one_line(error)})", SCORE_AGAIN) from error
