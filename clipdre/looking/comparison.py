"""Compare selections: what they share, what they keep of each score, and how diverse they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdre.core.diversity import Diversity, diversity
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.core.rank_correlation import rank_correlations
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.folders.embeddings import StoredPool, pool_of
from clipdre.looking.axes import axes_of, axis_rows
from clipdre.looking.edges import Axis, row_starts
from clipdre.looking.points import Places, sample_points
from clipdre.selecting.preview import Comparison, by_name, rows_in
from clipdre.selecting.preview import compare as overlaps
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW, Expression, Kind, private
from clipdre.sql.largest import largest
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet, seeded_hash, seeded_uniform

# Rows that correlations and diversities are computed from.
SAMPLED = 20_000
# Vectors read at a time.
TILE = 4096

# Rows to look at; None is the whole pool.
Sets = Sequence[RowSet | None]


@dataclass(frozen=True)
class Described:
    """A set of pairs in numbers.

    Attributes
    ----------
    rows : int
    means : dict of str to float or None
        Mean of each column, of finite values; None without any.
    diversity : dict of Modality to Diversity
        Of its images and its texts; empty if `Contrast.problem` says why.
    precision, recall : float or None
        Share of the set that fulfils `truth`, and share of the pairs that fulfil it which are in
        the set. Pairs for which the truth is null do not count. None without a truth, or without
        pairs to divide by.
    """

    rows: int
    means: dict[str, float | None]
    diversity: dict[Modality, Diversity]
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Contrast(Comparison):
    """How several selections of one pool differ, in depth.

    Attributes
    ----------
    names, jaccard, only
        As in `Comparison`.
    pool : Described
    kept : dict of str to Described
    columns : list of str
        Scores, measured columns and what is seen of a pair, as in `Described.means`.
    correlations : float64 array of shape (columns, columns)
        Spearman's, over the pool; NaN where one does not vary.
    sampled, diverse : int
        Pairs of the pool that `correlations` are computed from, and of each set that `diversity`
        is. All sets have the same number, since that of a few pairs is always small.
    problem : str
        Why there are no diversities; empty if there are.
    """

    pool: Described
    kept: dict[str, Described]
    columns: list[str]
    correlations: npt.NDArray[np.float64]
    sampled: int
    diverse: int
    problem: str


def compare(
    selections: Mapping[str, Selection] | Sequence[Selection],
    *,
    truth: str | None = None,
    sampled: int = SAMPLED,
) -> Contrast:
    """Compare selections of one score folder.

    Parameters
    ----------
    selections : mapping or sequence of Selection
        By name; a sequence takes the names of their rules, such as those of recipes.
    truth : str, optional
        SQL condition that good pairs fulfil, over the columns of the first selection, joined ones
        included: each selection's precision and recall refer to it.
    sampled : int
        Largest number of pairs from which correlations and diversities are computed.

    Raises
    ------
    UsageError
        If there are fewer than two selections, two have the same name, they belong to different
        score folders, or `sampled` is below 2.
    SelectionError
        If `truth` is not a condition over the columns.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> a = clipdre.select(scores, by="log_ratio", top=0.5)
    >>> b = clipdre.select(scores, by="log_ratio", top=0.25)
    >>> found = clipdre.compare({"half": a, "quarter": b}, truth="log_ratio > 0")
    >>> found.jaccard
    {('half', 'quarter'): 0.5}
    >>> found.kept["half"].recall > found.kept["quarter"].recall
    True
    """
    if sampled < 2:
        raise UsageError(f"`sampled` is {sampled}", "use at least 2")
    shared, named = overlaps(selections), by_name(selections)
    query = next(iter(named.values())).query
    sets = [None, *(rows_in(query, selection) for selection in named.values())]
    sizes = [query.manifest.rows, *map(len, named.values())]
    accuracies = [(None, None)] * len(sets) if truth is None else _accuracies(query, truth, sets)
    axes = axes_of(query)
    pool = axis_rows(query, axes)
    points = sample_points(pool, axes, sampled)
    vectors, diverse, problem = _diversities(pool, sets, sizes, sampled)
    whole, *kept = (
        Described(size, _means(pool, axes, rows), own, *accuracy)
        for size, rows, own, accuracy in zip(sizes, sets, vectors, accuracies, strict=True)
    )
    return Contrast(
        shared.names,
        shared.jaccard,
        shared.only,
        pool=whole,
        kept=dict(zip(named, kept, strict=True)),
        columns=[axis.label for axis in axes],
        correlations=rank_correlations([v.astype(np.float64) for v in points.values]),
        sampled=len(points),
        diverse=diverse,
        problem=problem,
    )


def _condition(truth: str) -> Expression:
    # A draw in the truth must not be the one that a rule has made.
    chance = seeded_uniform(0, "truth")
    return Expression(private("truth"), "`truth`", truth, Kind.CONDITION, chance)


def _means(pool: RowSet, axes: Sequence[Axis], rows: RowSet | None) -> dict[str, float | None]:
    """Return the mean of each axis over some rows of the pool, or all."""
    means = [f"avg({axis.name}) FILTER (isfinite({axis.name}))" for axis in axes]
    return dict(zip((axis.label for axis in axes), _over(pool, rows, means), strict=True))


def _accuracies(
    query: ScoreQuery, truth: str, sets: Sets
) -> list[tuple[float | None, float | None]]:
    """Return precision and recall of each set; the first one is the pool."""
    condition = _condition(truth)
    pool = RowSet.of_pool(query, [condition])
    counts = [f"count(*) FILTER ({condition.name})", f"count({condition.name})"]
    found = [_over(pool, rows, counts) for rows in sets]
    every = found[0][0]
    return [
        (good / known if known else None, good / every if every else None) for good, known in found
    ]


def _over(pool: RowSet, rows: RowSet | None, aggregates: Sequence[str]) -> tuple[Any, ...]:
    """Return our own aggregates over the columns of `pool`, for those of its rows in `rows`."""
    if rows is None:
        return pool.one(*aggregates)
    (found,) = pool.query.fetchall(
        f"SELECT {', '.join(aggregates)} FROM {pool.name} "
        f"SEMI JOIN {rows.name} USING ({FILE}, {ROW})",
        (*pool.expressions, *rows.expressions),
    )
    return found


def _diversities(
    pool: RowSet, sets: Sets, sizes: Sequence[int], most: int
) -> tuple[list[dict[Modality, Diversity]], int, str]:
    """Return diversities, from how many rows of each set, and why there are none."""
    try:
        vectors = pool_of(pool.query.folder, pool.query.manifest).directions
    except ScoresError as error:
        return [{} for _ in sets], 0, str(error)
    n = min([most, *(size for size in sizes if size > 1)])
    found = [
        _diversity(vectors, _drawn(rows or pool, size, n)) if size > 1 else {}
        for rows, size in zip(sets, sizes, strict=True)
    ]
    return found, n, ""


def _drawn(rows: RowSet, present: int, n: int) -> Places:
    """Return the places of a uniform sample of rows, ascending."""
    if present > n:
        rows = largest(rows, present, "0::DOUBLE", seeded_hash(0, "diversity"), n)
    files, places = rows.arrays(FILE, ROW)
    return np.sort(row_starts(rows.query.manifest)[files] + places)


def _diversity(pool: StoredPool, places: Places) -> dict[Modality, Diversity]:
    """Return the diversity of the images and texts at some places."""
    found = {}
    for modality in Modality:
        moments = Moments.empty(pool.dim)
        for start in range(0, len(places), TILE):
            vectors = pool.take(modality, places[start : start + TILE])
            moments = moments.merge(Moments.of(vectors.double()))
        found[modality] = diversity(moments.covariance)
    return found
