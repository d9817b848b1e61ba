"""Reliability: the share of a column's variance that is signal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Below this, a selection by the column depends on the draw of the reference.
TRUSTED = 0.95


def reliability(values: npt.NDArray[np.floating], errors: npt.NDArray[np.floating]) -> float:
    """Compute ``1 - mean(se^2) / var(score)``, the squared correlation of scores and exact values.

    1 for scores without error, 0 or less for scores that are pure error, NaN if the scores do not
    vary.

    Parameters
    ----------
    values, errors : float arrays of shape (n,)
        Scores and their standard errors, both in nats.
    """
    spread = float(np.var(np.asarray(values, dtype=np.float64)))
    if not spread > 0:
        return float("nan")
    return 1.0 - float(np.mean(np.asarray(errors, dtype=np.float64) ** 2)) / spread
