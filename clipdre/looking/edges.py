"""Where a line may be drawn through a score, and how many rows lie on each side of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.formats.folders.manifest import Manifest
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.sql.row_set import RowSet

# Edges per score, at least; steps of 1, 2 and 5 leave at most 2.5 times as many.
EDGES = 200
# Share of the rows beyond the first edge, and beyond the last one.
TAIL = 0.001
STEPS = (Decimal(1), Decimal(2), Decimal(5))
# Beyond these, a decimal number takes more digits than its column has.
SMALLEST, LARGEST = 1e-30, 1e30

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """A number that rows are shown by.

    Attributes
    ----------
    column : Column
        Its name is what people write after `where`: a column, or SQL.
    label : str
        Short name for people.
    name : str
        Column of views that holds it as DOUBLE.
    single : bool
        Whether the column holds 32-bit floats, to which DuckDB rounds the number it is compared
        with.
    whole : bool
        Whether it holds whole numbers.
    """

    column: Column
    label: str
    name: str
    single: bool
    whole: bool

    def values(self, column: npt.NDArray[np.float64]) -> Values:
        """Return values as `compare` compares them."""
        return column.astype(np.float32) if self.single else column


@dataclass(frozen=True)
class Histogram:
    """Counts of rows between edges.

    Attributes
    ----------
    axis : Axis
    edges : tuple of str
        Ascending decimal numbers, as people write them.
    pool : int64 array of shape (len(edges) + 1,)
        Rows below the first edge, from each edge on up to the next one, and from the last one on.
    kept : int64 array of shape (selections, len(edges) + 1)
        The same of the rows that each selection keeps.
    missing : int
        Rows without a finite value.
    """

    axis: Axis
    edges: tuple[str, ...]
    pool: Counts
    kept: Counts
    missing: int


def edges_of(values: npt.NDArray[np.float64], *, whole: bool) -> tuple[str, ...]:
    """Return two or more round numbers that divide most of `values`.

    Parameters
    ----------
    values : float64 array of shape (n,)
        A sample of a column: finite, may be empty.
    whole : bool
        Whether the column holds whole numbers.
    """
    low, high = np.quantile(values, [TAIL, 1 - TAIL]) if len(values) else (0.0, 0.0)
    size = max(abs(low), abs(high))
    if not SMALLEST < size < LARGEST:
        return ("0", "1")
    # Numbers that are all the same are divided by some step; 32-bit ones by none below 1e-7.
    width = max((high - low) / EDGES, size * 1e-7) if high > low else size / 10
    step = _round_step(width)
    if whole:
        step = max(step, Decimal(1))
    first = int((Decimal(float(low)) / step).to_integral_value(ROUND_FLOOR))
    last = math.ceil(Decimal(float(high)) / step)
    return tuple(_plain(step * n) for n in range(first, max(last, first + 1) + 1))


def _round_step(width: float) -> Decimal:
    """Return the largest of 1, 2 and 5 times a power of ten that is not larger than `width`."""
    power = Decimal(10) ** math.floor(math.log10(width))
    return max(power * step for step in STEPS if power * step <= Decimal(width) or step == 1)


def _plain(number: Decimal) -> str:
    return format(number.normalize() + 0, "f")


def count_between(
    rows: RowSet, edges: Mapping[Axis, tuple[str, ...]], kept: Sequence[Mask]
) -> list[Histogram]:
    """Count rows between the edges of each axis: all, the kept ones, and those without a value.

    A value belongs to an edge exactly if SQL's ``value >= edge`` is true.

    Parameters
    ----------
    rows : RowSet
        The pool, with a column for each axis.
    edges : mapping of Axis to tuple of str
    kept : sequence of bool arrays of shape (pool,)
        Whether each selection keeps a row.
    """
    starts = row_starts(rows.query.manifest)
    cuts = [axis.values(np.array(own, np.float64)) for axis, own in edges.items()]
    counts = [np.zeros((1 + len(kept), len(own) + 1), np.int64) for own in cuts]
    missing = [0] * len(edges)
    names = ", ".join([FILE, ROW, *(axis.name for axis in edges)])
    for batch in rows.query.stream(f"SELECT {names} FROM {rows.name}"):
        places = starts[batch.column(0).to_numpy()] + batch.column(1).to_numpy()
        masks = [own[places] for own in kept]
        for n, axis in enumerate(edges):
            column = batch.column(n + 2).to_numpy(zero_copy_only=False)
            finite = np.isfinite(column)
            bins = np.searchsorted(cuts[n], axis.values(column), side="right")
            missing[n] += len(column) - int(finite.sum())
            for m, mask in enumerate([finite, *(finite & mask for mask in masks)]):
                counts[n][m] += np.bincount(bins[mask], minlength=len(cuts[n]) + 1)
    return [
        Histogram(axis, own, own_counts[0], own_counts[1:], none)
        for (axis, own), own_counts, none in zip(edges.items(), counts, missing, strict=True)
    ]


def row_starts(manifest: Manifest) -> Counts:
    """Return the place in the pool of each shard's first row; int64 of shape (shards + 1,)."""
    return np.array(manifest.starts, np.int64)


def kept_mask(selection: Selection) -> Mask:
    """Return whether each row of the pool is kept; bool of shape (pool,)."""
    query = selection.query
    starts, mask = row_starts(query.manifest), np.zeros(query.manifest.rows, np.bool_)
    sql = f"SELECT {FILE}, {ROW} FROM {selection.rows.name}"
    for batch in query.stream(sql, selection.rows.expressions):
        mask[starts[batch.column(0).to_numpy()] + batch.column(1).to_numpy()] = True
    return mask
