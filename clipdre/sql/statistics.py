"""Statistics of score columns over all rows of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdre.core.reliability import reliability_of
from clipdre.sql.expressions import SCORED
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


def errors(query: ScoreQuery, column: str) -> ErrorStatistics:
    """Summarise a score column and its ``_se``, out of core."""
    value, se = f"{column}::DOUBLE", f"{column}_se::DOUBLE"
    ((mean, spread, mean_se, mean_square),) = query.fetchall(
        f"SELECT avg({value}), stddev_pop({value}), avg({se}), avg({se} * {se}) FROM {SCORED}"
    )
    return ErrorStatistics(mean, spread, mean_se, reliability_of(spread**2, mean_square))


def quantiles(query: ScoreQuery, column: str, probabilities: Sequence[float]) -> list[float]:
    """Return quantiles of a score column."""
    return [float(v) for v in _one(query, f"quantile_cont({column}, {list(probabilities)})")]


def mean(query: ScoreQuery, column: str) -> float:
    """Return the mean of a score column."""
    return float(_one(query, f"avg({column}::DOUBLE)"))


def share(query: ScoreQuery, condition: str) -> float:
    """Return the share of rows for which our own `condition` is true."""
    return float(_one(query, f"avg(CAST(({condition}) AS INT))"))


def _one(query: ScoreQuery, expression: str) -> Any:
    ((value,),) = query.fetchall(f"SELECT {expression} FROM {SCORED}")
    return value
