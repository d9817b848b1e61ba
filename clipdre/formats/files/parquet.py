"""Parquet files that appear whole and carry a stamp: what they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.formats.files.storage import committed


def write_table(table: pa.Table, path: Path, stamp: Mapping[str, str] | None = None) -> None:
    """Write Parquet atomically, with `stamp` in the file's own metadata."""
    with committed(path) as temporary:
        save_table(table, temporary, stamp)


def save_table(table: pa.Table, path: Path, stamp: Mapping[str, str] | None = None) -> None:
    """Write Parquet to a path that the caller commits."""
    metadata = {**(table.schema.metadata or {}), **(stamp or {})}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")


def read_stamp(source: Path | BinaryIO) -> dict[str, str]:
    """Return the stamp of a Parquet file; empty if there is no such whole file."""
    try:
        metadata = pq.read_schema(source).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}
    return {k.decode(): v.decode() for k, v in metadata.items() if k != b"ARROW:schema"}
