"""Reliability: how much of a column's variance is signal, in two respects.

`reliability` sees the error that the sampled part of a reference leaves. `split_half` sees the
accident of the pool: it correlates a column between two disjoint halves of it. Neither sees the
error of the model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from clipdre.core.moments import Moments

# Below this, a selection by the column depends on the draw of the reference.
TRUSTED = 0.95
# Below this, a selection by the column depends on which pairs the pool happens to hold.
TRUSTED_POOL = 0.9
# Nats; a column that varies less does not vary: vectors are stored in half precision.
ROUNDING = 1e-4


def reliability(values: npt.NDArray[np.floating], errors: npt.NDArray[np.floating]) -> float:
    """Compute ``1 - mean(se^2) / var(score)``, the squared correlation of scores and exact values.

    1 for scores without error, 0 or less for scores that are pure error, NaN if the scores do not
    vary.

    Parameters
    ----------
    values, errors : float arrays of shape (n,)
        Scores and their standard errors, both in nats.
    """
    return reliability_of(
        float(np.var(np.asarray(values, dtype=np.float64))),
        float(np.mean(np.asarray(errors, dtype=np.float64) ** 2)),
    )


def reliability_of(variance: float, mean_square_error: float) -> float:
    """Compute the same from the variance of the scores and their mean squared standard error."""
    if not variance > ROUNDING**2:
        return float("nan")
    return 1.0 - mean_square_error / variance


def split_half(halves: Moments) -> float:
    """Compute the correlation of a column between two halves of the pool, in [-1, 1].

    NaN if the column does not vary.

    Parameters
    ----------
    halves : Moments
        Of rows (value against the first half, value against the second), in nats.
    """
    first, second = halves.covariance.diagonal().tolist()
    if not min(first, second) > ROUNDING**2:
        return float("nan")
    together = float(halves.covariance[0, 1])
    return together / math.sqrt(first * second)
