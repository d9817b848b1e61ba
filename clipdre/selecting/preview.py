"""Preview what rules would keep, and compare them, before writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import pyarrow as pa

from clipdre.core.scores import SCORE_COLUMNS
from clipdre.errors import UsageError
from clipdre.formats.files.storage import real
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.sql.joined import Join
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet

EXAMPLES = 3
SHARED_BY = ("caption", "uid")
# Name of a selection whose rule has none.
UNNAMED = "the rule"


class ShardCount(NamedTuple):
    """A shard's name, and its rows in the pool and among the kept."""

    name: str
    rows: int
    kept: int


class Means(NamedTuple):
    """Mean of a column over the pool and over the kept rows; None without finite values."""

    pool: float | None
    kept: float | None


class Alone(NamedTuple):
    """Number of rows that no other selection keeps, and some of their captions."""

    rows: int
    captions: list[str]


@dataclass(frozen=True)
class Preview:
    """What a rule would keep.

    Attributes
    ----------
    name : str
    pool, kept : int
        Number of rows.
    steps : tuple of Counted
    shards : list of ShardCount
    means : dict of str to Means
        Means of each score column, in its unit.
    duplicates : dict
        ``caption`` and ``uid`` to the share of kept rows that repeat another kept row's value.
    joined : list of Join
        How many pairs found a row in each joined table.
    """

    name: str
    pool: int
    kept: int
    steps: tuple[Counted, ...]
    shards: list[ShardCount]
    means: dict[str, Means]
    duplicates: dict[str, float]
    joined: list[Join]

    @property
    def mean_log_ratio(self) -> Means:
        """Mean log ratio per pair of the pool and of the kept rows, in nats."""
        return self.means["log_ratio"]


@dataclass(frozen=True)
class Comparison:
    """How several selections of one pool differ.

    Attributes
    ----------
    names : list of str
    jaccard : dict
        Pair of names to the rows that both keep, divided by the rows that either keeps.
    only : dict of str to Alone
    """

    names: list[str]
    jaccard: dict[tuple[str, str], float]
    only: dict[str, Alone]


def preview(selection: Selection) -> Preview:
    """Preview `selection`.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> found = clipdre.preview(clipdre.select(scores, by="log_ratio", top=10))
    >>> found.kept, found.mean_log_ratio.pool < found.mean_log_ratio.kept
    (10, True)
    """
    rows, query = selection.rows, selection.query
    scores = [name for name in SCORE_COLUMNS if not name.endswith("_se") and name in query.columns]
    averages = [f"avg({name}::DOUBLE) FILTER (isfinite({name}))" for name in scores]
    before = RowSet.of_pool(query, ()).one(*averages)
    wide = rows.wide()
    after = wide.one(*averages)
    counts = dict(rows.all(f"SELECT {FILE}, count(*) FROM {{rows}} GROUP BY 1"))
    distinct = wide.one(
        *(f"1 - count(DISTINCT hash({name})) / nullif(count({name}), 0)" for name in SHARED_BY)
    )
    return Preview(
        name=selection.rule.name,
        pool=selection.pool,
        kept=len(selection),
        steps=selection.steps,
        shards=[
            ShardCount(shard.name, shard.rows, counts.get(index, 0))
            for index, shard in enumerate(query.manifest.shards)
        ],
        means=dict(zip(scores, map(Means, before, after), strict=True)),
        duplicates={n: float(v or 0) for n, v in zip(SHARED_BY, distinct, strict=True)},
        joined=query.joins,
    )


def compare(selections: Mapping[str, Selection] | Sequence[Selection]) -> Comparison:
    """Compare selections of one score folder.

    Parameters
    ----------
    selections : mapping or sequence of Selection
        By name; a sequence takes the names of their rules, such as those of recipes.

    Raises
    ------
    UsageError
        If there are fewer than two selections, two have the same name, or they belong to
        different score folders.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> a = clipdre.select(scores, by="log_ratio", top=0.5)
    >>> b = clipdre.select(scores, by="log_ratio", top=0.25)
    >>> clipdre.compare({"half": a, "quarter": b}).jaccard
    {('half', 'quarter'): 0.5}
    """
    named = _named(selections)
    query = next(iter(named.values())).query
    rows = {name: rows_in(query, selection) for name, selection in named.items()}
    jaccard = {}
    for a, b in combinations(rows, 2):
        both = _matching(rows[a], "SEMI", [rows[b]]).count()
        either = len(named[a]) + len(named[b]) - both
        jaccard[a, b] = both / either if either else 1.0
    only = {}
    for name, own in rows.items():
        others = [rows[other] for other in rows if other != name]
        alone = _matching(own, "ANTI", others).wide()
        captions = alone.all(f"SELECT caption FROM {{rows}} ORDER BY key_hash LIMIT {EXAMPLES}")
        only[name] = Alone(alone.count(), [caption or "" for (caption,) in captions])
    return Comparison(list(rows), jaccard, only)


def by_name(
    selections: Mapping[str, Selection] | Sequence[Selection],
) -> dict[str, Selection]:
    """Return selections by name; a sequence takes the names of their rules.

    Raises
    ------
    UsageError
        If two have the same name.
    """
    if isinstance(selections, Mapping):
        return dict(selections)
    named = {selection.rule.name or UNNAMED: selection for selection in selections}
    if len(named) < len(selections):
        raise UsageError("two selections have the same name", "give each a name of its own")
    return named


def _named(selections: Mapping[str, Selection] | Sequence[Selection]) -> dict[str, Selection]:
    named = by_name(selections)
    if len(named) < 2:
        raise UsageError("there are fewer than two selections to compare", "pass at least two")
    if len({real(selection.query.folder.path) for selection in named.values()}) > 1:
        raise UsageError(
            "only selections of one score folder can be compared", "select from the same scores"
        )
    return named


def rows_in(query: ScoreQuery, selection: Selection) -> RowSet:
    """Return the rows of a selection in `query`, which need not be its own."""
    if selection.query is query:
        return selection.rows
    columns = (FILE, ROW, "key_hash")
    arrays = selection.rows.arrays(*columns)
    name = query.new_name()
    query.register(name, pa.table(dict(zip(columns, arrays, strict=True))))
    return RowSet(query, name, narrow=True)


def _matching(rows: RowSet, join: str, others: Sequence[RowSet]) -> RowSet:
    """Return the rows that are (SEMI) or are not (ANTI) in any of the others."""
    every = " UNION ALL ".join(f"SELECT {FILE}, {ROW} FROM {other.name}" for other in others)
    table = rows.query.table(
        f"SELECT {FILE}, {ROW}, key_hash FROM {rows.name} {join} JOIN ({every}) "
        f"USING ({FILE}, {ROW})",
        rows.expressions,
    )
    return RowSet(rows.query, table, rows.expressions, narrow=True)
