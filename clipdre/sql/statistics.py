"""Statistics of score columns over all rows of a folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clipdre.core.reliability import reliability_of
from clipdre.core.scores import SE
from clipdre.sql.expressions import SCORED, quoted
from clipdre.sql.query import ScoreQuery

# Values that quantiles may hold in memory; a pass over many files takes longer than over few.
HELD = 1 << 24


@dataclass(frozen=True)
class ErrorStatistics:
    """A column's values and their claimed errors, in the column's unit.

    Attributes
    ----------
    mean, spread, mean_se : float
        Mean and standard deviation of the column, mean of its standard error.
    reliability : float
        As in `clipdre.core.reliability`; NaN if the column does not vary.
    """

    mean: float
    spread: float
    mean_se: float
    reliability: float


def has_errors(query: ScoreQuery, column: str) -> bool:
    """Return whether a name is that of a score column with standard errors, as SQL reads names."""
    scored = {name.lower() for name in query.connection.view(SCORED).columns}
    return {column.lower(), f"{column}{SE}".lower()} <= scored


def errors(query: ScoreQuery, columns: Sequence[str]) -> dict[str, ErrorStatistics]:
    """Summarise score columns and their ``_se`` in one pass, out of core."""
    wanted = []
    for column in columns:
        value, se = (f"{quoted(name)}::DOUBLE" for name in (column, f"{column}{SE}"))
        wanted += [f"avg({value})", f"stddev_pop({value})", f"avg({se})", f"avg({se} * {se})"]
    found = iter(_one(query, wanted))
    return {column: _errors(*(_number(next(found)) for _ in range(4))) for column in columns}


def _errors(mean: float, spread: float, mean_se: float, mean_square: float) -> ErrorStatistics:
    return ErrorStatistics(mean, spread, mean_se, reliability_of(spread**2, mean_square))


def quantiles(
    query: ScoreQuery, columns: Sequence[str], probabilities: Sequence[float]
) -> dict[str, list[float]]:
    """Return quantiles of score columns, in as few passes as `HELD` allows."""
    at_once = max(1, HELD // max(1, query.manifest.rows))
    found: dict[str, list[float]] = {}
    for start in range(0, len(columns), at_once):
        part = columns[start : start + at_once]
        values = _one(query, [f"quantile_cont({quoted(n)}, {list(probabilities)})" for n in part])
        for name, own in zip(part, values, strict=True):
            found[name] = [_number(v) for v in own or [None] * len(probabilities)]
    return found


class Signs(NamedTuple):
    """Mean, standard deviation and number of a column's finite values, and how many are positive.

    Without finite values all are 0; `positive` is a share.
    """

    mean: float
    spread: float
    rows: int
    positive: float


def signs_and_shares(
    query: ScoreQuery, column: str, conditions: Sequence[str]
) -> tuple[Signs, list[float]]:
    """Return a column's signs, and the share of rows that meet each of our own `conditions`.

    One pass: with many small files, it takes as long for all as for one.
    """
    value = f"{quoted(column)}::DOUBLE"
    finite = f"FILTER (isfinite({value}))"
    wanted = [f"avg({value})", f"stddev_pop({value})", "count(*)", f"avg(({value} > 0)::INT)"]
    shares = [f"avg(CAST(({condition}) AS INT))" for condition in conditions]
    found = _one(query, [*(f"{aggregate} {finite}" for aggregate in wanted), *shares])
    mean, spread, rows, positive = found[:4]
    signs = Signs(mean or 0.0, spread or 0.0, int(rows), positive or 0.0)
    return signs, [_number(share) for share in found[4:]]


def share(query: ScoreQuery, condition: str) -> float:
    """Return the share of rows for which our own `condition` is true."""
    (value,) = _one(query, [f"avg(CAST(({condition}) AS INT))"])
    return _number(value)


def _number(value: float | None) -> float:
    """Return NaN for null: there are no values."""
    return math.nan if value is None else float(value)


def _one(query: ScoreQuery, aggregates: Sequence[str]) -> tuple[Any, ...]:
    (values,) = query.fetchall(f"SELECT {', '.join(aggregates)} FROM {SCORED}")
    return values
