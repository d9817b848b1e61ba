"""Cells of a pool by k-means with faiss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.cells import Cells

ITERATIONS = 4
TRAINING_PER_CELL = 16
SEED = 1

Tiles = Callable[[], Iterator[tuple[int, Tensor]]]


def cluster(
    training: Tensor, count: int, rows: int, tiles: Tiles
) -> tuple[Cells, npt.NDArray[np.int64]]:
    """Divide a pool into cells; return them and the cell of each row.

    Parameters
    ----------
    training : float32 Tensor of shape (n, d)
        A uniform sample of the pool, `TRAINING_PER_CELL` rows per cell or fewer.
    count : int
        Number of cells.
    rows : int
        Rows of the pool.
    tiles : callable
        Returns an iterator over the pool's rows as (start, tile).

    Returns
    -------
    cells : Cells
    assigned : int64 array of shape (rows,)
        Cell of each row of the pool.
    """
    d = training.shape[1]
    kmeans = faiss.Kmeans(
        d,
        count,
        niter=ITERATIONS,
        seed=SEED,
        max_points_per_centroid=TRAINING_PER_CELL,
        min_points_per_centroid=1,
    )
    kmeans.train(training.numpy())
    trained = torch.from_numpy(kmeans.centroids)
    sums = torch.zeros(count, d, dtype=torch.float64)
    squares = torch.zeros(count, dtype=torch.float64)
    counts = torch.zeros(count, dtype=torch.int64)
    # Not a list of parts: each of them could keep the memory of its tile's products from being used
    # again, and all tiles together have `rows` x `count` products.
    assigned = np.empty(rows, np.int64)
    for start, tile in tiles():
        cells = nearest(tile, trained).squeeze(1)
        sums.index_add_(0, cells, tile.double())
        squares.index_add_(0, cells, (tile**2).sum(dim=1).double())
        counts += torch.bincount(cells, minlength=count)
        assigned[start : start + len(tile)] = cells.numpy()
    filled = counts.clamp(min=1)
    centroids = sums / filled[:, None]
    variances = (squares / filled - (centroids**2).sum(dim=1)).clamp(min=0) / d
    return Cells(centroids.float(), counts, variances.float()), assigned


def nearest(vectors: Tensor, centroids: Tensor, count: int = 1) -> Tensor:
    """Return the indices of the nearest `count` centroids of each row, int64 of shape (n, count).

    One matrix product suffices: a faiss index, built for many neighbours, takes six times as long.
    """
    half_squares = centroids.square().sum(dim=1) / 2
    # The nearest centroid c minimizes |x - c|^2, and so maximizes <x, c> - |c|^2 / 2.
    return torch.addmm(half_squares, vectors, centroids.T, beta=-1).topk(count, dim=1).indices
