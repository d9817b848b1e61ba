"""Embeddings to a reference: moments, bulk, cells, and how well they cover the pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.cells import Cells
from clipdre.core.moments import Moments
from clipdre.core.partition import logits_of, own_mask
from clipdre.errors import InputError
from clipdre.formats.embeddings import Modality, Pool
from clipdre.formats.manifest import ModelRecord
from clipdre.formats.reference import (
    SIDES,
    Hashes,
    NearRecord,
    ReferenceFolder,
    ReferenceRecord,
)
from clipdre.progress import Progress

EXACT_UP_TO = 32_768
TILE_ROWS = 2048
FOLDS = 16
# More, smaller cells miss less at equal cost, until the centroids themselves cost as much.
CELLS_PER_ROOT = 3
HELD_OUT = 256
RECALL = 0.99
MARGINS = tuple(range(2, 41))
# Held-out queries are too few to show rare misses, so the margin widens until the near counterparts
# cost as much as the bulk: there they buy more (docs/estimators.md).
NEAR_PER_BULK = 1.0
Rows = npt.NDArray[np.int64]


def build_reference(
    pool: Pool,
    hashes: Hashes,
    model: ModelRecord,
    config: EstimateConfig,
    folder: ReferenceFolder,
) -> ReferenceRecord:
    """Write the reference of a pool, or keep the one that is there when it is the same.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        Key hash of each of the pool's rows: the smallest make the bulk, the largest the held-out
        queries.

    Raises
    ------
    InputError
        When a pool of fewer than two pairs leaves nothing to compare with, or the bulk is smaller
        than its folds.
    """
    method = _method(len(pool), config)
    record = _planned(len(pool), hashes, model, config, method)
    found = folder.record()
    if found is not None and found.digest == record.digest:
        return found
    order = np.argsort(hashes, kind="stable")  # stable: the same draw where hashes repeat
    folder.write_moments({side: _moments(pool, side) for side in SIDES})
    if record.bulk:
        rows = _bulk_rows(order, record)
        folder.write("bulk_hash", hashes[rows])
        for side in SIDES:
            folder.write(f"bulk_{side}", pool.take(side, rows).numpy().astype(np.float16))
    near: dict[str, NearRecord] = {}
    if method is ReferenceMethod.SAMPLE:
        for side in SIDES:
            folder.write(f"pool_hash_{side}", hashes)
    else:
        with Progress("reference", 4 * len(pool)) as progress:
            for side in SIDES:
                cells, sorted_rows = _sorted_into_cells(pool, side, order, method, progress)
                _write_pool(pool, side, sorted_rows, hashes, folder, progress)
                if cells is not None:
                    folder.write_cells(side, cells)
                    held_out = order[-HELD_OUT:]
                    near[side] = _calibrated(pool, side, cells, sorted_rows, held_out, record)
    finished = replace(record, near=near)
    folder.write_record(finished)
    return finished


def _method(pairs: int, config: EstimateConfig) -> ReferenceMethod:
    if pairs < 2:
        raise InputError(
            f"the shards hold {pairs} usable pair(s), and a density ratio compares a pair with "
            "others: see failures/ in the output folder, or score more shards together"
        )
    if config.method is not ReferenceMethod.AUTO:
        return config.method
    return ReferenceMethod.EXACT if pairs <= EXACT_UP_TO else ReferenceMethod.STRATIFIED


def _planned(
    pairs: int, hashes: Hashes, model: ModelRecord, config: EstimateConfig, method: ReferenceMethod
) -> ReferenceRecord:
    bulk = folds = 0
    if method is not ReferenceMethod.EXACT:
        drawn = min(config.bulk, pairs)
        folds = FOLDS
        bulk = drawn // FOLDS * FOLDS
        if bulk < 2 * FOLDS:
            raise InputError(
                f"--bulk {config.bulk} of {pairs} pairs is too small for errors from {FOLDS} folds "
                f"of two or more: give --bulk {2 * FOLDS} at least, or --reference exact"
            )
    neighbors = min(config.neighbors, pairs) if method is ReferenceMethod.STRATIFIED else 0
    settings = f"{method.value} {neighbors} {bulk} {folds} {RECALL} {model.digest}"
    digest = hashlib.sha256(settings.encode() + hashes.tobytes()).hexdigest()
    return ReferenceRecord(
        method=method.value,
        pairs=pairs,
        bulk=bulk,
        folds=folds,
        neighbors=neighbors,
        model_digest=model.digest,
        logit_scale=model.logit_scale,
        logit_bias=model.logit_bias,
        embedding_dim=model.embedding_dim,
        digest=digest,
    )


def _moments(pool: Pool, side: Modality) -> Moments:
    moments = Moments.empty(pool.dim)
    for _, tile in pool.tiles(side, TILE_ROWS):
        moments = moments.merge(Moments.of(tile))
    return moments


def _bulk_rows(order: Rows, record: ReferenceRecord) -> Rows:
    """The rows of smallest hash, fold behind fold: each fold is a uniform draw of its own."""
    rows = order[: record.bulk].reshape(-1, record.folds)
    return np.ascontiguousarray(rows.T).ravel()


def _sorted_into_cells(
    pool: Pool, side: Modality, order: Rows, method: ReferenceMethod, progress: Progress
) -> tuple[Cells | None, Rows]:
    """The cells, and the pool's rows cell behind cell (in pool order where there are none)."""
    if method is ReferenceMethod.EXACT:
        progress.advance(len(pool))
        return None, np.arange(len(pool))
    # faiss takes long to load, and exact runs do without it
    from clipdre.formats.neighbors import TRAINING_PER_CELL, cluster  # noqa: PLC0415

    count = max(1, min(len(pool) // 8, round(CELLS_PER_ROOT * len(pool) ** 0.5)))

    def tiles() -> Iterator[tuple[int, Tensor]]:
        for start, tile in pool.tiles(side, TILE_ROWS):
            yield start, tile
            progress.advance(len(tile))

    training = pool.take(side, order[: TRAINING_PER_CELL * count])
    cells, assigned = cluster(training, count, tiles)
    return cells, np.argsort(assigned, kind="stable")


def _write_pool(
    pool: Pool,
    side: Modality,
    sorted_rows: Rows,
    hashes: Hashes,
    folder: ReferenceFolder,
    progress: Progress,
) -> None:
    place = np.empty_like(sorted_rows)
    place[sorted_rows] = np.arange(len(sorted_rows))
    folder.write(f"pool_hash_{side}", hashes[sorted_rows])
    with folder.writing(f"pool_{side}", (len(pool), pool.dim)) as vectors:
        for start, tile in pool.tiles(side, TILE_ROWS):
            vectors[place[start : start + len(tile)]] = tile.numpy().astype(np.float16)
            progress.advance(len(tile))


@dataclass
class _Nearest:
    """Running top of the logits of some queries, with the cells they lie in."""

    logits: Tensor
    cells: Tensor

    def add(self, logits: Tensor, cells: Tensor) -> None:
        """Take the tile's logits (n, m) and its members' cells (m,) in."""
        size = self.logits.shape[1]
        every = torch.cat([self.logits, logits], dim=1)
        where = torch.cat([self.cells, cells.expand(len(logits), -1)], dim=1)
        self.logits, chosen = every.topk(size, dim=1)
        self.cells = where.gather(1, chosen)


def _calibrated(
    pool: Pool,
    side: Modality,
    cells: Cells,
    sorted_rows: Rows,
    held_out: Rows,
    record: ReferenceRecord,
) -> NearRecord:
    """The smallest margin at which held-out queries find the mass of their nearest."""
    queries = pool.take("text" if side == "img" else "img", held_out)
    starts = torch.cumsum(cells.counts, dim=0)
    place = torch.from_numpy(np.argsort(sorted_rows)[held_out])
    n, k = len(queries), record.neighbors
    nearest = _Nearest(torch.full((n, k), float("-inf")), torch.zeros(n, k, dtype=torch.int64))
    for start in range(0, len(pool), TILE_ROWS):
        tile = pool.take(side, sorted_rows[start : start + TILE_ROWS])
        logits = logits_of(queries, tile, record.logit_scale, record.logit_bias)
        mask = own_mask(place, start, len(tile))
        if mask is not None:
            logits.masked_fill_(mask, float("-inf"))
        positions = torch.arange(start, start + len(tile))
        nearest.add(logits, torch.searchsorted(starts, positions, right=True))
    mass = torch.exp(nearest.logits - nearest.logits[:, :1])
    best: NearRecord | None = None
    for margin in MARGINS:
        near = cells.near(queries, record.logit_scale, margin)
        found = torch.where(near.gather(1, nearest.cells), mass, 0.0).sum(dim=1) / mass.sum(dim=1)
        share = float((near.double() @ cells.counts.double()).mean()) / len(pool)
        dear = share * len(pool) > NEAR_PER_BULK * record.bulk
        if best is not None and best.recall >= RECALL and dear:
            break
        best = NearRecord(len(cells), float(margin), float(found.mean()), share)
    assert best is not None
    return best
