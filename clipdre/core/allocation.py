"""Allocation of a number of rows to bins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def fill_evenly(counts: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Return how many rows to take from each bin: `n` in all, spread as evenly as possible.

    Water-filling: each bin gives up to a common level. The remainder comes one row each from the
    last bins that hold more than the level.

    Parameters
    ----------
    counts : int64 array of shape (bins,)
        Rows in each bin.
    n : int >= 0

    Returns
    -------
    int64 array of shape (bins,)
        Sums to ``min(n, counts.sum())``; no entry exceeds its count.
    """
    if n < 0:
        raise ValueError(f"The 'n' parameter of fill_evenly must be >= 0. Got {n} instead.")
    if n >= counts.sum():
        return counts.copy()
    ascending = np.sort(counts)
    larger = np.arange(len(counts), 0, -1)
    # Rows taken if the level were at each count in turn.
    taken = np.concatenate([[0], np.cumsum(ascending)[:-1]]) + ascending * larger
    at = int(np.searchsorted(taken, n, side="right"))  # the smallest bin that is not emptied
    level = (n - int(ascending[:at].sum())) // int(larger[at])
    filled = np.minimum(counts, level)
    fuller = np.flatnonzero(counts > level)
    remainder = n - int(filled.sum())
    filled[fuller[len(fuller) - remainder :]] += 1
    return filled
