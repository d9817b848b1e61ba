"""Measured columns: ``SCORES/columns/NAME/SHARD.parquet``, row for row as the scores.

Each file is stamped with what decides it and with a digest of the rows it belongs to, so files that
several machines wrote can be copied together; ``record.json`` marks the columns as complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.core.columns import Column
from clipdre.core.scores import SCORES
from clipdre.errors import ScoresError
from clipdre.formats.files.parquet import read_footer, read_stamp, read_table, write_table
from clipdre.formats.files.storage import committed, regular
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import MeasureRecord, ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, row_digest

RECORD = "record.json"
MEASURE, ROWS = "clipdre.measure", "clipdre.rows"
THREADS = 8
# The columns that `clipdre score` itself measures.
DUPLICATES = "near-duplicates"
GROUP = Column(
    "duplicate_group", "", "key hash that all pairs alike on both sides share; a lone pair's own"
)
RANK = Column("duplicate_rank", "", "place in the group by log_ratio; 1 is the best", "low")
# Only in pools of several captions per image.
CAPTION_SOURCE = Column("caption_source", "", "which caption of the sample it is: suffix or field")
# Columns of `clipdre score`, which no other column may be called, in any case.
RESERVED = {
    *SAMPLE_SCHEMA.names,
    *(score.column.name for score in SCORES),
    GROUP.name,
    RANK.name,
    CAPTION_SOURCE.name,
}


@dataclass(frozen=True)
class ColumnFolder:
    """The files of one scorer's columns."""

    path: Path

    @property
    def name(self) -> str:
        """Name under which the columns were measured."""
        return self.path.name

    def file(self, shard: str) -> Path:
        """Return the path of one shard's columns."""
        return self.path / f"{shard}.parquet"

    def record(self) -> MeasureRecord | None:
        """Return the record of complete columns; None if there is none."""
        try:
            return MeasureRecord.decoded(regular(self.path / RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, RecursionError) as error:
            cure = "measure again with `overwrite`"
            raise ScoresError(f"{self.path / RECORD} is damaged ({error})", cure) from error

    def write_record(self, record: MeasureRecord) -> None:
        """Write the record, last of all: the columns are complete."""
        with committed(self.path / RECORD) as temporary:
            temporary.write_bytes(record.encoded())

    def stamp(self, stamp: str, rows: str) -> dict[str, str]:
        """Return what a finished shard's file is stamped with."""
        return {MEASURE: stamp, ROWS: rows}

    def is_done(self, shard: str, stamp: Mapping[str, str]) -> bool:
        """Whether a shard's file is there and has this very stamp."""
        return stamp.items() <= read_stamp(self.file(shard)).items()

    def write(
        self, shard: str, columns: Mapping[str, npt.NDArray[Any]], stamp: Mapping[str, str]
    ) -> None:
        """Write one shard's columns; NaN is stored as null."""
        arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
        write_table(pa.table(arrays), self.file(shard), stamp)

    def write_empty(self, shard: str, like: str, stamp: Mapping[str, str]) -> None:
        """Write the columns of a shard without rows, with the types of another shard's."""
        write_table(read_table(self.file(like)).slice(0, 0), self.file(shard), stamp)


def column_folders(folder: ScoreFolder) -> Iterator[ColumnFolder]:
    """Yield the folders of measured columns, finished or not, by name."""
    if folder.columns.is_dir():
        for path in sorted(folder.columns.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                yield ColumnFolder(path)


def stamped_digests(folder: ScoreFolder, shards: Sequence[ShardRecord]) -> list[str | None]:
    """Return the `row_digest` that each shard's score file is stamped with; None in old folders.

    `ScoresError` if a file has not as many rows as the manifest states.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        # Only this of each footer is kept: a pool may have very many shards.
        return list(threads.map(lambda shard: folder.checked(shard).stamp.get(ROWS), shards))


def row_digests(
    folder: ScoreFolder,
    shards: Sequence[ShardRecord],
    stamped: Sequence[str | None] | None = None,
) -> list[str]:
    """Return the `row_digest` of each shard's score file, of which `stamped` may be known."""

    def digest(shard: ShardRecord, known: str | None) -> str:
        if known is not None:
            return known
        hashes = read_table(folder.scores(shard.name), ["key_hash"])["key_hash"].to_numpy()
        return row_digest(np.asarray(hashes))

    stamped = stamped_digests(folder, shards) if stamped is None else stamped
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(digest, shards, stamped))


def is_current(
    columns: ColumnFolder, record: MeasureRecord, manifest: Manifest, digests: Sequence[str]
) -> bool:
    """Whether every shard has a file of this record, aligned with the shard's scores.

    Parameters
    ----------
    digests : sequence of str
        See `row_digests`.
    """

    def is_aligned(shard: ShardRecord, rows: str) -> bool:
        with suppress(ScoresError):
            found = read_footer(columns.file(shard.name))
            stamp = columns.stamp(record.stamp, rows)
            # A file of another length would shift the rows of all shards after it.
            return stamp.items() <= found.stamp.items() and found.rows == shard.rows
        return False

    with ThreadPoolExecutor(THREADS) as threads:
        aligned = threads.map(is_aligned, manifest.shards, digests)
        return record.rows == manifest.rows and all(aligned)
