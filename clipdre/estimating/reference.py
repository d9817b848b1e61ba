"""Embeddings to a reference: moments, bulk, cells, and how well they cover the pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.core.partition import leave_out_own
from clipdre.core.tiles import logits_of
from clipdre.errors import InputError, ScoresError
from clipdre.formats.folders.embeddings import StoredPool
from clipdre.formats.folders.records import ModelRecord, NearRecord, ReferenceRecord
from clipdre.formats.folders.reference import Hashes, ReferenceFolder
from clipdre.progress import Progress

EXACT_UP_TO = 32_768
TILE_ROWS = 2048
FOLDS = 16
# More, smaller cells miss less at equal cost, until the centroids themselves cost as much.
CELLS_PER_ROOT = 3
HELD_OUT = 256
# Largest root mean square share of a query's mass outside its near cells; the bulk stands for it,
# with an error.
MISSED = 0.002
MARGINS = tuple(float(margin) for margin in range(2, 61))
# Extra nats: held-out queries are too few to show rare misses.
SAFETY = 2.0
Rows = npt.NDArray[np.int64]


def build_reference(
    pool: StoredPool,
    hashes: Hashes,
    model: ModelRecord,
    config: EstimateConfig,
    folder: ReferenceFolder,
) -> ReferenceRecord:
    """Write the reference of a pool, or keep the one that is there if it is the same.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        Key hash of each row of the pool: the smallest make the bulk, the largest the held-out
        queries.

    Raises
    ------
    InputError
        When the pool has fewer than two pairs, or the bulk is too small for its folds.
    """
    method = _method(len(pool), config)
    record = _planned(len(pool), hashes, model, config, method)
    with suppress(ScoresError):  # a record that cannot be read is replaced
        found = folder.record()
        if found is not None and found.digest == record.digest:
            return found
    order = np.argsort(hashes, kind="stable")  # stable: the same draw where hashes repeat
    folder.write_moments({modality: _moments(pool, modality) for modality in Modality})
    if record.bulk:
        rows = bulk_rows(order, record.bulk, record.folds)
        folder.write("bulk_hash", hashes[rows])
        for modality in Modality:
            folder.write(f"bulk_{modality}", pool.take(modality, rows).numpy().astype(np.float16))
    near: dict[Modality, NearRecord] = {}
    if method is ReferenceMethod.SAMPLE:
        for modality in Modality:
            folder.write(f"pool_hash_{modality}", hashes)
    else:
        with Progress("reference", 4 * len(pool)) as progress:
            for modality in Modality:
                cells, sorted_rows = _sorted_into_cells(pool, modality, order, method, progress)
                _write_pool(pool, modality, sorted_rows, hashes, folder, progress)
                if cells is not None:
                    folder.write_cells(modality, cells)
                    held_out = order[-HELD_OUT:]
                    near[modality] = _calibrated(
                        pool, modality, cells, sorted_rows, held_out, record
                    )
    finished = msgspec.structs.replace(record, near=near)
    folder.write_record(finished)
    return finished


def _method(pairs: int, config: EstimateConfig) -> ReferenceMethod:
    if pairs < 2:
        raise InputError(
            f"the shards hold {pairs} usable pair(s), and a ratio compares a pair with others",
            "see failures/ in the output folder, or score more shards together",
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
                f"`bulk` {config.bulk} of {pairs} pairs is too small for {FOLDS} folds of two",
                f"use `bulk` {2 * FOLDS} or more, or `reference` exact",
            )
    neighbors = min(config.neighbors, pairs) if method is ReferenceMethod.STRATIFIED else 0
    settings = f"{method.value} {neighbors} {bulk} {folds} {MISSED} {SAFETY} {model.digest}"
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


def _moments(pool: StoredPool, modality: Modality) -> Moments:
    moments = Moments.empty(pool.dim)
    for _, tile in pool.tiles(modality, TILE_ROWS):
        moments = moments.merge(Moments.of(tile))
    return moments


def bulk_rows(order: Rows, bulk: int, folds: int) -> Rows:
    """Return the `bulk` rows of smallest hash, fold by fold: each fold is a uniform sample too."""
    return np.ascontiguousarray(order[:bulk].reshape(-1, folds).T).ravel()


def _sorted_into_cells(
    pool: StoredPool, modality: Modality, order: Rows, method: ReferenceMethod, progress: Progress
) -> tuple[Cells | None, Rows]:
    """Return the cells and the pool's rows cell by cell; no cells and pool order if exact."""
    if method is ReferenceMethod.EXACT:
        progress.advance(len(pool))
        return None, np.arange(len(pool))
    # faiss takes long to load, and exact runs do not need it
    from clipdre.clusters.kmeans import TRAINING_PER_CELL, cluster  # noqa: PLC0415

    count = max(1, min(len(pool) // 8, round(CELLS_PER_ROOT * len(pool) ** 0.5)))

    def tiles() -> Iterator[tuple[int, Tensor]]:
        for start, tile in pool.tiles(modality, TILE_ROWS):
            yield start, tile
            progress.advance(len(tile))

    training = pool.take(modality, order[: TRAINING_PER_CELL * count])
    cells, assigned = cluster(training, count, tiles)
    return cells, np.argsort(assigned, kind="stable")


def _write_pool(
    pool: StoredPool,
    modality: Modality,
    sorted_rows: Rows,
    hashes: Hashes,
    folder: ReferenceFolder,
    progress: Progress,
) -> None:
    place = np.empty_like(sorted_rows)
    place[sorted_rows] = np.arange(len(sorted_rows))
    folder.write(f"pool_hash_{modality}", hashes[sorted_rows])
    with folder.writing(f"pool_{modality}", (len(pool), pool.dim)) as vectors:
        for start, tile in pool.tiles(modality, TILE_ROWS):
            vectors[place[start : start + len(tile)]] = tile.numpy().astype(np.float16)
            progress.advance(len(tile))


def _calibrated(
    pool: StoredPool,
    modality: Modality,
    cells: Cells,
    sorted_rows: Rows,
    held_out: Rows,
    record: ReferenceRecord,
) -> NearRecord:
    """Return the smallest margin at which held-out queries have their mass and `neighbors` near."""
    queries = pool.take(modality.other, held_out)
    own = torch.from_numpy(np.argsort(sorted_rows)[held_out])
    masses = torch.full((len(queries), len(cells)), float("-inf"), dtype=torch.float64)
    start = 0
    for cell, count in enumerate(cells.counts.tolist()):
        if count:
            members = pool.take(modality, sorted_rows[start : start + count])
            logits = logits_of(queries * record.logit_scale, members, record.logit_bias)
            leave_out_own(logits, own - start)
            masses[:, cell] = logits.double().logsumexp(dim=1)
        start += count
    pool.release(modality)
    return _smallest_margin(queries, cells, torch.softmax(masses, dim=1), record)


def _smallest_margin(
    queries: Tensor, cells: Cells, mass: Tensor, record: ReferenceRecord
) -> NearRecord:
    """Choose the margin from the exact share of each query's mass in each cell, shape (n, c)."""

    def measured(margin: float) -> tuple[NearRecord, float]:
        near = cells.near(queries, record.logit_scale, margin)
        share = float((near.double() @ cells.counts.double()).mean()) / record.pairs
        missed = torch.where(near, 0.0, mass).sum(dim=1)
        found = NearRecord(
            cells=len(cells), margin=margin, mass=1 - float(missed.mean()), share=share
        )
        return found, float((missed**2).mean()) ** 0.5

    found = [measured(margin) for margin in MARGINS]
    enough = next((n for n, missed in found if missed <= MISSED), found[-1][0])
    asked = next((n for n, _ in found if n.share * record.pairs >= record.neighbors), found[-1][0])
    return measured(max(enough.margin + SAFETY, asked.margin))[0]
