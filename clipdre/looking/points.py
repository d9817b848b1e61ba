"""A uniform sample of the pool, to draw from and to look for examples in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.looking.edges import Axis, row_starts
from clipdre.sql.expressions import FILE, ROW
from clipdre.sql.row_set import RowSet

# Key hashes below a bound are a uniform sample. The bound is so many standard deviations above the
# mean that the sample is hardly ever too small.
MARGIN = 6
HASHES = 2**64
# Steps between the first and the last edge that a point's value is rounded to.
LEVELS = 256
LETTERS = 1_000

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """Rows of smallest key hash, a uniform sample; the same on any machine.

    Attributes
    ----------
    places : int64 array of shape (n,)
        Their places in the pool, in order of their key hashes.
    values : sequence of float64 arrays of shape (n,)
        Their values on each axis; NaN if missing.
    captions : list of str
        The beginnings of their captions, of `LETTERS` at most.
    """

    places: Places
    values: Sequence[npt.NDArray[np.float64]]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.places)


def sample_points(rows: RowSet, axes: Sequence[Axis], most: int) -> Points:
    """Draw `most` of the pool's `rows`, whose view has a column for each axis."""
    pool = max(1, rows.query.manifest.rows)
    share = (most + MARGIN * most**0.5) / pool
    among = "true" if share >= 1 else f"key_hash <= {int(share * HASHES)}::UBIGINT"
    caption = f"left(caption::VARCHAR, {LETTERS})" if "caption" in rows.query.columns else "''"
    columns = [FILE, ROW, caption, *(axis.name for axis in axes)]
    sql = (
        f"SELECT {', '.join(columns)} FROM {rows.name} WHERE {among} "
        f"ORDER BY key_hash, {FILE}, {ROW} LIMIT {most}"
    )
    batches = list(rows.query.stream(sql))
    if not batches:
        return Points(np.empty(0, np.int64), [np.empty(0)] * len(axes), [])
    table = pa.Table.from_batches(batches)
    file, row, captions, *values = table.columns
    return Points(
        row_starts(rows.query.manifest)[file.to_numpy()] + row.to_numpy(),
        [column.to_numpy() for column in values],
        [caption or "" for caption in captions.to_pylist()],
    )


def levels(edges: Sequence[str], values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return on which of `LEVELS` steps between the first and the last edge each value lies.

    Values beyond the edges are put on the nearest step, missing ones on the first.
    """
    first, last = float(edges[0]), float(edges[-1])
    with np.errstate(over="ignore"):
        steps = (values - first) / ((last - first) or 1.0) * LEVELS
    steps = np.nan_to_num(steps, nan=0.0, posinf=LEVELS, neginf=0.0)
    return np.clip(steps, 0, LEVELS - 1).astype(np.uint8)
