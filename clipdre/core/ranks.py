"""Places of rows within their groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def ranks_in_groups(
    leaders: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    hashes: npt.NDArray[np.uint64],
) -> npt.NDArray[np.int32]:
    """Return the place of each row in its group by descending score, from 1; ties by key hash."""
    order = np.lexsort((hashes, -scores, leaders))
    starts = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    return ranks
