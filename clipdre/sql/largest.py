"""The n largest rows, exactly, in a few passes and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from clipdre.sql.expressions import FILE, ROW
from clipdre.sql.row_set import RowSet

FETCHED = 1 << 18
SAMPLED = 1 << 17
# Half width of the bracket in standard deviations of a sample's rank; a miss costs a pass.
SPREAD = 4


@dataclass(frozen=True)
class _Place:
    """A place in the order of rows: largest value first, among equals smallest hash first."""

    value: float
    hash: int = 0

    def reached(self, value: str, order: str) -> str:
        """Return SQL for rows at this place or after it."""
        mine = f"'{self.value!r}'::DOUBLE"
        if self.hash == 0:  # before all equal values: the hashes need not be read
            return f"{value} <= {mine}"
        return f"({value} < {mine} OR ({value} = {mine} AND {order} >= {self.hash}::UBIGINT))"


def largest(rows: RowSet, present: int, value: str, order: str, n: int) -> RowSet:
    """Return the `n` rows with the largest values; ties are broken by the smallest hashes.

    A sample brackets the place after the n-th row and a count checks it, until the rows within can
    be fetched (after Floyd and Rivest: Expected time bounds for selection, CACM 1975).

    Parameters
    ----------
    rows : RowSet
        Their values are numbers: no null, no NaN.
    present : int
        Number of rows, more than `n`.
    value, order : str
        SQL of a DOUBLE, and of a UBIGINT that is unique to each row.
    n : int
        At least 1.
    """

    def within(first: _Place | None, behind: _Place | None) -> str:
        start = first.reached(value, order) if first else "true"
        return start + (f" AND NOT {behind.reached(value, order)}" if behind else "")

    ranked = _Ranked(rows, value, order)
    first = behind = None
    before, inside = 0, present  # rows before [first, behind), and within
    while inside > FETCHED:
        condition = within(first, behind)
        cuts = _cuts(ranked, condition, (n - before, inside), first)
        parts = list(pairwise([first, *(cut for cut in cuts if cut != first), behind]))
        known = [f"count(*) FILTER ({within(*part)})" for part in parts[:-1]]
        counts = list(rows.one(*known, condition=condition)) if known else []
        counts.append(inside - sum(counts))
        was = inside
        for part, inside in zip(parts, counts, strict=True):
            if before + inside > n:
                first, behind = part
                break
            before += inside
        if inside == was:  # nothing divides them: they are all equal
            break
    values, hashes = rows.arrays(value, order, condition=within(first, behind))
    by_place = np.lexsort((hashes, -values))
    end = by_place[n - before]
    if n > before:
        tied = bool(values[by_place[n - before - 1]] == values[end])
    else:
        tied = first is not None and first.hash > 0
    place = _Place(float(values[end]), int(hashes[end]) if tied else 0)
    return rows.where(f"NOT {place.reached(value, order)}")


class _Ranked(NamedTuple):
    rows: RowSet
    value: str
    order: str


def _cuts(
    ranked: _Ranked, condition: str, wanted: tuple[int, int], first: _Place | None
) -> list[_Place]:
    """Return places just before and after the n-th of the `inside` rows, from a sample."""
    rows, value, order = ranked
    n, inside = wanted
    condition = f"{condition} AND hash({FILE}, {ROW}) % {inside // SAMPLED} = 0"
    (values,) = rows.arrays(value, condition=condition)
    rank = n / inside * len(values)
    width = SPREAD * np.sqrt(rank * (1 - n / inside)) + 2
    at = [r for r in (int(rank - width), int(rank + width)) if 0 <= r < len(values)]
    descending = -np.sort(-values)[at]
    among_ties = first is not None and first.hash > 0
    if not among_ties and len(set(descending)) == len(at):
        return [_Place(float(v)) for v in descending]
    values, hashes = rows.arrays(value, order, condition=condition)
    return [
        _Place(float(values[row]), int(hashes[row])) for row in np.lexsort((hashes, -values))[at]
    ]
