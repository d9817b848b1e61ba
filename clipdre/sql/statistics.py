"""Statistics of score columns over all rows of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdre.core.scores import SE
from clipdre.sql.expressions import SCORED, quoted
from clipdre.sql.query import ScoreQuery


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


def errors(query: ScoreQuery, column: str) -> ErrorStatistics:
    """Summarise a score column and its ``_se``, out of core."""
    value, se = (f"{quoted(name)}::DOUBLE" for name in (column, f"{column}{SE}"))
    ((mean, spread, mean_se, mean_square),) = query.fetchall(
        f"SELECT avg({value}), stddev_pop({value}), avg({se}), avg({se} * {se}) FROM {SCORED}"
    )
    reliability = 1 - mean_square / spread**2 if spread > 0 else float("nan")
    return ErrorStatistics(mean, spread, mean_se, reliability)


def quantiles(query: ScoreQuery, column: str, probabilities: Sequence[float]) -> list[float]:
    """Return quantiles of a score column."""
    return [
        float(v) for v in _one(query, f"quantile_cont({quoted(column)}, {list(probabilities)})")
    ]


def mean(query: ScoreQuery, column: str) -> float:
    """Return the mean of a score column."""
    return float(_one(query, f"avg({quoted(column)}::DOUBLE)"))


def share(query: ScoreQuery, condition: str) -> float:
    """Return the share of rows for which our own `condition` is true."""
    return float(_one(query, f"avg(CAST(({condition}) AS INT))"))


def _one(query: ScoreQuery, expression: str) -> Any:
    ((value,),) = query.fetchall(f"SELECT {expression} FROM {SCORED}")
    return value
