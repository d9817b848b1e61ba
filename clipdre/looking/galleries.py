"""Which pairs are worth looking at: the ends of each score, the cut, and where two rules differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from clipdre.core.scores import MAIN_COLUMNS
from clipdre.looking.edges import Axis, Mask, row_starts
from clipdre.looking.points import Places, Points
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW, private
from clipdre.sql.row_set import RowSet
from clipdre.words import count

EACH = 8
GROUPS = 3
# Pairs per score that are spread evenly over the pool, so that there are some near any line.
SPREAD = 24
# Two scores whose disagreement is telling.
AGAINST = (("similarity", "log_ratio"), ("log_ratio", "kl_text"))
GROUP = "duplicate_group"


@dataclass(frozen=True)
class Gallery:
    """Pairs to look at together.

    Attributes
    ----------
    title, note : str
    places : int64 array
        In the pool.
    by : str
        Label of the axis that says most about them; empty if none does.
    """

    title: str
    note: str
    places: Places
    by: str = ""

    def of(self, places: Sequence[int]) -> Gallery:
        """Return a gallery of only these pairs."""
        return replace(self, places=np.array(places, np.int64))


def galleries(
    pool: RowSet, axes: Sequence[Axis], points: Points, kept: Mapping[str, tuple[Selection, Mask]]
) -> Iterator[Gallery]:
    """Yield galleries, the most telling first.

    Parameters
    ----------
    pool : RowSet
        All rows, with a column for each axis.
    kept : mapping of str to (Selection, bool array of shape (pool,))
        Selections by name, and whether each keeps a row.
    """
    main = [n for n, axis in enumerate(axes) if axis.label in MAIN_COLUMNS]
    for name, (selection, _) in kept.items():
        yield from _at_the_cut(name, selection)
    for (first, (_, mine)), (second, (_, theirs)) in permutations(kept.items(), 2):
        yield from _only_in(points, first, mine, second, theirs)
    for n in main:
        yield from _ends(pool, axes[n])
    for high, low in AGAINST:
        yield from _disagreements(axes, points, high, low)
    yield from _alike(pool)
    for n in main[:1]:
        yield _deciles(axes[n], points.places, points.values[n])


def spread(axes: Sequence[Axis], points: Points) -> Places:
    """Return pairs that are spread evenly over each main score."""
    main = [n for n, axis in enumerate(axes) if axis.label in MAIN_COLUMNS]
    found = [evenly(points.places, points.values[n], SPREAD) for n in main]
    return np.concatenate([np.empty(0, np.int64), *found])


def _at_the_cut(name: str, selection: Selection) -> Iterator[Gallery]:
    """Yield the kept rows nearest to the cut of the last ranking step, and those beyond it."""
    ranked = [n for n, step in enumerate(selection.steps) if step.threshold is not None]
    if not ranked:
        return
    n = ranked[-1]
    step = selection.steps[n]
    by = next(e for e in selection.rows.expressions if e.name == private(f"by_{n}"))
    kept, beyond = ("DESC", ">") if step.step.bottom else ("ASC", "<")
    every = RowSet.of_pool(selection.query, [by])
    around = every.where(f"{by.name} {beyond} {step.threshold!r}::DOUBLE")
    dropped = "ASC" if kept == "DESC" else "DESC"
    yield Gallery(
        f"Just kept by {name}",
        f"The kept pairs nearest to the cut: {step.cut}.",
        _ordered(selection.rows, f"{by.name} {kept}"),
        step.step.by or "",
    )
    yield Gallery(
        f"Just dropped by {name}",
        f"The pairs nearest to the cut on its other side ({step.cut} keeps).",
        _ordered(around, f"{by.name} {dropped}"),
        step.step.by or "",
    )


def _only_in(points: Points, name: str, kept: Mask, other: str, dropped: Mask) -> Iterator[Gallery]:
    only = kept & ~dropped
    total = int(only.sum())
    if total:
        drawn = points.places[only[points.places]][:EACH]
        places = np.flatnonzero(only)[:: -(-total // EACH)] if len(drawn) < EACH else drawn
        title = f"Kept by {name}, not by {other}"
        yield Gallery(title, f"{count(total, 'pair')}; a random few.", places)


def _ends(pool: RowSet, axis: Axis) -> Iterator[Gallery]:
    name = axis.name
    there = pool.where(f"isfinite({name})")
    for title, order in (("Highest", "DESC"), ("Lowest", "ASC")):
        note = f"{axis.label}: {axis.column.meaning}."
        yield Gallery(f"{title} {axis.label}", note, _ordered(there, f"{name} {order}"), axis.label)


def _disagreements(
    axes: Sequence[Axis], points: Points, first: str, second: str
) -> Iterator[Gallery]:
    """Yield the pairs that one score ranks much higher than the other."""
    at = {axis.label: n for n, axis in enumerate(axes)}
    if not {first, second} <= set(at):
        return
    values = np.array([points.values[at[label]] for label in (first, second)])
    finite = np.flatnonzero(np.isfinite(values).all(axis=0))
    if len(finite) < 2 * EACH:
        return
    one, other = (own.argsort(kind="stable").argsort() for own in values[:, finite])
    note = f"The largest differences of the two ranks among {len(finite):,} pairs."
    for high, low, difference in ((first, second, other - one), (second, first, one - other)):
        places = points.places[finite[np.argsort(difference, kind="stable")[:EACH]]]
        yield Gallery(f"{high} high, {low} low", note, places, high)


def _alike(pool: RowSet) -> Iterator[Gallery]:
    """Yield the largest groups of near-duplicates."""
    if GROUP not in pool.query.columns:
        return
    every = pool.wide()
    largest = every.all(
        f"SELECT {GROUP}, count(*) AS n FROM {{rows}} WHERE {GROUP} IS NOT NULL "
        f"GROUP BY 1 HAVING n > 1 ORDER BY n DESC, 1 LIMIT {GROUPS}"
    )
    for group, size in largest:
        rows = every.where(f"{GROUP} = {int(group)}")
        note = "Image and caption are nearly the same."
        yield Gallery(f"A group of {size:,} alike pairs", note, _ordered(rows, "key_hash"))


def _deciles(axis: Axis, places: Places, values: npt.NDArray[np.float64]) -> Gallery:
    found = evenly(places, values, 10)
    return Gallery(f"From low to high {axis.label}", "One pair per decile.", found, axis.label)


def evenly(places: Places, values: npt.NDArray[np.float64], n: int) -> Places:
    """Return places in the middle of n equal parts of the finite values, lowest first."""
    finite = np.flatnonzero(np.isfinite(values))
    order = finite[np.argsort(values[finite], kind="stable")]
    at = ((np.arange(n) + 0.5) / n * len(order)).astype(np.int64)
    return places[order[np.unique(at)]] if len(order) else np.empty(0, np.int64)


def _ordered(rows: RowSet, order: str) -> Places:
    """Return the places of the first rows by our own `order`."""
    found = rows.all(f"SELECT {FILE}, {ROW} FROM {{rows}} ORDER BY {order}, key_hash LIMIT {EACH}")
    starts = row_starts(rows.query.manifest)
    return np.array([starts[file] + row for file, row in found], np.int64)
