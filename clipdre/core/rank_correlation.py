"""Correlations of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def rank_correlations(columns: Sequence[Values]) -> Values:
    """Compute Spearman's correlation of each two columns, shape (columns, columns).

    Parameters
    ----------
    columns : sequence of float64 arrays of shape (n,)
        Rows without a value (NaN) in one of the two columns are left out.

    Returns
    -------
    float64 array of shape (columns, columns)
        NaN where fewer than two rows are left, or one of the columns does not vary.
    """
    found = np.full((len(columns), len(columns)), np.nan)
    present = [~np.isnan(column) for column in columns]
    whole = [
        mean_ranks(column) if own.all() else None
        for column, own in zip(columns, present, strict=True)
    ]
    for a in range(len(columns)):
        for b in range(a + 1):
            first, second = whole[a], whole[b]
            if first is None or second is None:
                both = present[a] & present[b]
                first, second = mean_ranks(columns[a][both]), mean_ranks(columns[b][both])
            found[a, b] = found[b, a] = _correlation(first, second)
    return found


def mean_ranks(values: Values) -> Values:
    """Return the rank of each value from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Values = (last - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(a: Values, b: Values) -> float:
    a, b = (ranks - (len(ranks) + 1) / 2 for ranks in (a, b))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else np.nan
