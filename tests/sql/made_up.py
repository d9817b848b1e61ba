"""Rows of made-up score folders, and ways to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.sql.expressions import Expression, Kind
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from tests.helpers import write_score_folder


def write_pool(folder: Path, sizes: Sequence[int], columns: Mapping[str, object]) -> Manifest:
    """Write a score folder of shards of these sizes; columns hold all rows in pool order."""
    stops = np.cumsum(sizes).tolist()
    starts = [0, *stops[:-1]]
    return write_score_folder(
        folder,
        [
            {name: values[start:stop] for name, values in columns.items()}
            for start, stop in zip(starts, stops, strict=True)
        ],
    )


def random_hashes(n: int, seed: int = 0) -> np.ndarray:
    """Draw key hashes."""
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def query_of(
    folder: Path, manifest: Manifest, joined: Sequence[Path] = (), **options: float
) -> ScoreQuery:
    """Open a score folder."""
    return ScoreQuery(ScoreFolder(folder), manifest, joined, **options)


def row_set(query: ScoreQuery, where: str = "true", by: str = "0") -> RowSet:
    """Return all rows with a condition as `where_0` and a number as `by_0`."""
    expressions = [
        Expression("where_0", "`where`", where, Kind.CONDITION),
        Expression("by_0", "`by`", by, Kind.NUMBER),
    ]
    return RowSet.of_pool(query, expressions)


def table_of(rows: RowSet, columns: Sequence[str] | None = None) -> pa.Table:
    """Read rows in pool order."""
    return pa.Table.from_batches(list(rows.batches(columns)))
