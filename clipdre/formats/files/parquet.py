"""Parquet files that appear atomically, with a stamp that records what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.errors import ScoresError
from clipdre.formats.files.storage import committed, regular
from clipdre.words import one_line

# Tables of fewer rows are read in the caller's thread, which is sooner done.
MANY_ROWS = 16 * 1024
# What reading a damaged file raises.
UNREADABLE = (OSError, MemoryError, pa.ArrowException)
SCORE_AGAIN = "score again with `overwrite`"
# Smaller tables are written plainly and at once: compressors, dictionaries and statistics of each
# column, and a call for each page, take longer than the rows.
SMALL = 64 * 1024
PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False}


class Footer(NamedTuple):
    """What a Parquet file says of itself: number of rows, columns, stamp."""

    rows: int
    columns: list[str]
    stamp: dict[str, str]


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
    if table.nbytes >= SMALL:
        _save(table, path, {"compression": "zstd"})
        return
    buffer = pa.BufferOutputStream()
    _save(table, buffer, PLAIN)
    path.write_bytes(buffer.getvalue())


def _save(table: pa.Table, sink: Path | pa.BufferOutputStream, options: dict[str, Any]) -> None:
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        if len(table):  # some readers, such as Hugging Face datasets, fail at an empty row group
            writer.write_table(table)


def read_stamp(source: Path | BinaryIO) -> dict[str, str]:
    """Return the stamp of a Parquet file, empty if the file is missing or damaged."""
    try:
        return _footer(regular(source) if isinstance(source, Path) else source).stamp
    except UNREADABLE:
        return {}


def read_footer(path: Path) -> Footer:
    """Return what a file of a score folder says of itself; `ScoresError` if it is damaged."""
    with _reading(path):
        return _footer(regular(path))


def stamp_of(table: pa.Table) -> dict[str, str]:
    """Return the stamp of the file that a table was read from."""
    return _decoded(table.schema.metadata)


def _footer(source: Path | BinaryIO) -> Footer:
    with pq.ParquetFile(source) as file:
        found = file.metadata
        return Footer(found.num_rows, file.schema_arrow.names, _decoded(found.metadata))


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in (metadata or {}).items()
        if key != b"ARROW:schema"
    }


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file of a score folder, or some of its columns; `ScoresError` if it is damaged.

    For small files this is twice as fast as Arrow's data sets.
    """
    with _reading(path), pq.ParquetFile(regular(path)) as file:
        table = file.read(columns=columns, use_threads=file.metadata.num_rows >= MANY_ROWS)
        if lacking := set(columns or ()).difference(table.column_names):
            raise pa.ArrowInvalid(f"no column {min(lacking)}")
        return table


def count_rows(path: Path) -> int:
    """Return the number of rows of a file of a score folder; `ScoresError` if it is damaged."""
    return read_footer(path).rows


def list_columns(path: Path) -> list[str]:
    """Return the columns of a file of a score folder; `ScoresError` if it is damaged."""
    return read_footer(path).columns


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ScoresError(f"cannot read {path} ({one_line(error)})", SCORE_AGAIN) from error
