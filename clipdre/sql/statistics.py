"""Statistics of score columns over all rows of a folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    found = query.fetchall(
        f"SELECT avg({value}), stddev_pop({value}), avg({se}), avg({se} * {se}) FROM {SCORED}"
    )
    mean, spread, mean_se, mean_square = map(_number, found[0])
    reliability = 1 - mean_square / spread**2 if spread > 0 else math.nan
    return ErrorStatistics(mean, spread, mean_se, reliability)


def quantiles(query: ScoreQuery, column: str, probabilities: Sequence[float]) -> list[float]:
    """Return quantiles of a score column."""
    found = _one(query, f"quantile_cont({column}, {list(probabilities)})")
    return [math.nan] * len(probabilities) if found is None else [float(v) for v in found]


def mean(query: ScoreQuery, column: str) -> float:
    """Return the mean of a score column."""
    return _number(_one(query, f"avg({column}::DOUBLE)"))


def signs(query: ScoreQuery, column: str) -> tuple[float, float, int, float]:
    """Return mean, standard deviation, number of values, and share of positive ones.

    Only finite values count; without any, all four are 0.
    """
    value = f"{column}::DOUBLE"
    ((mean, spread, rows, positive),) = query.fetchall(
        f"SELECT avg({value}), stddev_pop({value}), count(*), avg(({value} > 0)::INT) "
        f"FROM {SCORED} WHERE isfinite({value})"
    )
    return mean or 0.0, spread or 0.0, int(rows), positive or 0.0


def share(query: ScoreQuery, condition: str) -> float:
    """Return the share of rows for which our own `condition` is true."""
    return _number(_one(query, f"avg(CAST(({condition}) AS INT))"))


def _number(value: float | None) -> float:
    """Return NaN for null: there are no values."""
    return math.nan if value is None else float(value)


def _one(query: ScoreQuery, expression: str) -> Any:
    ((value,),) = query.fetchall(f"SELECT {expression} FROM {SCORED}")
    return value
