"""Rows drawn from a pool by key hash: the same on any machine, and uniform."""

from __future__ import annotations

import numpy as np

from clipdre.core.stratified import HALVES
from clipdre.estimating.alike import Rows
from clipdre.formats.folders.reference import Hashes


def smallest(hashes: Hashes, n: int) -> Rows:
    """Return the `n` rows of smallest hash, ascending; without sorting, or copying, all rows.

    The order is stable, so that repeated hashes give the same draw.
    """
    if n >= len(hashes):
        return np.argsort(hashes, kind="stable")
    rows = np.flatnonzero(hashes <= np.partition(hashes, n)[n])
    return rows[np.argsort(hashes[rows], kind="stable")][:n]


def largest(hashes: Hashes, n: int) -> Rows:
    """Return the `n` rows of largest hash, or all, in the order of `smallest`."""
    least = max(0, len(hashes) - n)
    rows = np.flatnonzero(hashes >= np.partition(hashes, least)[least])
    return rows[np.argsort(hashes[rows], kind="stable")][-n:]


def bulk_rows(order: Rows, halves: Rows, bulk: int, folds: int) -> Rows:
    """Return the `bulk` rows of smallest hash, as many of each half, fold by fold.

    The first half of the folds are of the first half of the pool; each is a uniform sample of it.

    Parameters
    ----------
    order : int64 array of shape (n,)
        The pool's rows by key hash.
    halves : int64 array of shape (n,)
        The half of each row.
    """
    ordered = halves[order]
    drawn = (order[ordered == half][: bulk // HALVES] for half in range(HALVES))
    return np.concatenate([rows.reshape(-1, folds // HALVES).T.ravel() for rows in drawn])
