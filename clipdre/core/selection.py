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
