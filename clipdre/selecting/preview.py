"""Preview what rules would keep, and compare them, before writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from clipdre.core.scores import SCORE_COLUMNS
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.sql.row_set import RowSet

EXAMPLES = 3
SHARED_BY = ("caption", "uid")


@dataclass(frozen=True)
class Preview:
    """What a rule would keep.

    Attributes
    ----------
    name : str
    pool, kept : int
        Number of rows.
    steps : tuple of Counted
    shards : list of (str, int, int)
        Name, rows and kept rows of each shard.
    means : dict
        Score column to its mean over the pool and over the kept rows, in the column's unit. A mean
        is None if no row has a finite value.
    duplicates : dict
        ``caption`` and ``uid`` to the share of kept rows that repeat another kept row's value.
    """

    name: str
    pool: int
    kept: int
    steps: tuple[Counted, ...]
    shards: list[tuple[str, int, int]]
    means: dict[str, tuple[float | None, float | None]]
    duplicates: dict[str, float]

    @property
    def mean_log_ratio(self) -> tuple[float | None, float | None]:
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
    only : dict
        Name to the number of rows that no other selection keeps, and some of their captions.
    """

    names: list[str]
    jaccard: dict[tuple[str, str], float]
    only: dict[str, tuple[int, list[str]]]


def preview(selection: Selection) -> Preview:
    """Preview `selection`."""
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
            (shard.name, shard.rows, counts.get(index, 0))
            for index, shard in enumerate(query.manifest.shards)
        ],
        means=dict(zip(scores, zip(before, after, strict=True), strict=True)),
        duplicates={n: float(v or 0) for n, v in zip(SHARED_BY, distinct, strict=True)},
    )


def compare(selections: Sequence[Selection]) -> Comparison:
    """Compare selections made with the same `ScoreQuery`."""
    by_name = {selection.rule.name: selection for selection in selections}
    jaccard = {}
    for a, b in combinations(by_name, 2):
        both = _matching(by_name[a], "SEMI", [by_name[b]]).count()
        either = len(by_name[a]) + len(by_name[b]) - both
        jaccard[a, b] = both / either if either else 1.0
    only = {}
    for name, selection in by_name.items():
        alone = _matching(selection, "ANTI", [s for n, s in by_name.items() if n != name]).wide()
        captions = alone.all(f"SELECT caption FROM {{rows}} ORDER BY key_hash LIMIT {EXAMPLES}")
        only[name] = alone.count(), [caption or "" for (caption,) in captions]
    return Comparison(list(by_name), jaccard, only)


def _matching(selection: Selection, join: str, others: Sequence[Selection]) -> RowSet:
    """Return the rows of a selection that are (SEMI) or are not (ANTI) in any of the others."""
    rows = selection.rows
    every = " UNION ALL ".join(f"SELECT {FILE}, {ROW} FROM {other.rows.name}" for other in others)
    table = rows.query.table(
        f"SELECT {FILE}, {ROW}, key_hash FROM {rows.name} {join} JOIN ({every}) "
        f"USING ({FILE}, {ROW})",
        rows.expressions,
    )
    return RowSet(rows.query, table, rows.expressions, narrow=True)
