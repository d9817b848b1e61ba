"""How much of a column's spread is signal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Below this, a selection by the column depends on the draw.
TRUSTED = 0.95


def reliability(values: npt.NDArray[np.floating], errors: npt.NDArray[np.floating]) -> float:
    """``1 - mean(se^2) / var(score)``: the squared correlation that another draw leaves.

    1 for a column without error, 0 or less for one that is nothing but error; NaN where the column
    does not vary.

    Parameters
    ----------
    values, errors : float arrays of shape (n,)
        Scores and their standard errors, both in nats.
    """
    spread = float(np.var(np.asarray(values, dtype=np.float64)))
    if not spread > 0:
        return float("nan")
    return 1.0 - float(np.mean(np.asarray(errors, dtype=np.float64) ** 2)) / spread
