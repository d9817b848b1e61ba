"""Which rows to keep: exact counts, ties by key hash."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def top(
    values: npt.NDArray[np.floating], key_hash: npt.NDArray[np.uint64], n: int
) -> npt.NDArray[np.int64]:
    """Indices of the `n` largest values, ascending.

    Exactly ``min(n, number of values that are not NaN)`` indices; among equal values the smallest
    key hashes win, then the first rows, so the answer does not depend on machine or file order.

    Parameters
    ----------
    values : float array of shape (rows,)
    key_hash : uint64 array of shape (rows,)
    n : int >= 0
    """
    if n < 0:
        raise ValueError(f"The 'n' parameter of top must be >= 0. Got {n} instead.")
    valid = np.flatnonzero(~np.isnan(values))
    if n >= len(valid):
        return valid
    if n == 0:
        return valid[:0]
    candidates = values[valid]
    threshold = np.partition(candidates, len(candidates) - n)[len(candidates) - n]
    above = valid[candidates > threshold]
    tied = valid[candidates == threshold]
    by_hash = tied[np.argsort(key_hash[tied], kind="stable")]
    return np.sort(np.concatenate([above, by_hash[: n - len(above)]]))


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
