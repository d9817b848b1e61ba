"""Embeddings to a reference: moments, bulk, cells, and how well they cover the pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

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
from clipdre.formats.folders.embeddings import StoredPool, release, unit_rows
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
    builder = _Builder(pool, hashes, np.argsort(hashes, kind="stable"), record, folder)
    finished = msgspec.structs.replace(record, near=builder.build())
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
    settings = f"{method.value} {neighbors} {bulk} {folds} {MISSED} {SAFETY} {model.identity}"
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
        fingerprint=model.fingerprint,
    )


def _moments(pool: StoredPool, modality: Modality) -> Moments:
    moments = Moments.empty(pool.dim)
    for _, tile in pool.tiles(modality, TILE_ROWS):
        moments = moments.merge(Moments.of(tile))
    return moments


def bulk_rows(order: Rows, bulk: int, folds: int) -> Rows:
    """Return the `bulk` rows of smallest hash, fold by fold: each fold is a uniform sample too."""
    return np.ascontiguousarray(order[:bulk].reshape(-1, folds).T).ravel()


@dataclass(frozen=True)
class _Builder:
    """Writes the files of one reference.

    Attributes
    ----------
    order : int64 array of shape (n,)
        The pool's rows by key hash; a stable order, so that repeated hashes give the same draw.
    record : ReferenceRecord
        Everything but how near counterparts are chosen.
    """

    pool: StoredPool
    hashes: Hashes
    order: Rows
    record: ReferenceRecord
    folder: ReferenceFolder

    def build(self) -> dict[Modality, NearRecord]:
        """Write all files but the record; return how near counterparts are chosen."""
        self.folder.write_moments({m: _moments(self.pool, m) for m in Modality})
        if self.record.bulk:
            self._write_bulk()
        if self.record.method == ReferenceMethod.SAMPLE:
            for modality in Modality:
                self.folder.write(f"pool_hash_{modality}", self.hashes)
            return {}
        near: dict[Modality, NearRecord] = {}
        with Progress("reference", 4 * len(self.pool)) as progress:
            for modality in Modality:
                cells, rows = self._sorted_into_cells(modality, progress)
                self._write_pool(modality, rows, progress)
                if cells is not None:
                    self.folder.write_cells(modality, cells)
                    near[modality] = self._calibrated(modality, cells, rows)
        return near

    def _write_bulk(self) -> None:
        rows = bulk_rows(self.order, self.record.bulk, self.record.folds)
        self.folder.write("bulk_hash", self.hashes[rows])
        for modality in Modality:
            vectors = self.pool.take(modality, rows).numpy().astype(np.float16)
            self.folder.write(f"bulk_{modality}", vectors)

    def _sorted_into_cells(
        self, modality: Modality, progress: Progress
    ) -> tuple[Cells | None, Rows]:
        """Return the cells and the pool's rows cell by cell; no cells and pool order if exact."""
        pairs = len(self.pool)
        if self.record.method == ReferenceMethod.EXACT:
            progress.advance(pairs)
            return None, np.arange(pairs)
        # faiss takes long to load, and exact runs do not need it
        from clipdre.clusters.kmeans import TRAINING_PER_CELL, cluster  # noqa: PLC0415

        count = max(1, min(pairs // 8, round(CELLS_PER_ROOT * pairs**0.5)))

        def tiles() -> Iterator[tuple[int, Tensor]]:
            for start, tile in self.pool.tiles(modality, TILE_ROWS):
                yield start, tile
                progress.advance(len(tile))

        training = self.pool.take(modality, self.order[: TRAINING_PER_CELL * count])
        cells, assigned = cluster(training, count, pairs, tiles)
        return cells, np.argsort(assigned, kind="stable")

    def _write_pool(self, modality: Modality, rows: Rows, progress: Progress) -> None:
        """Write all vectors in the order of `rows`."""
        place = np.empty_like(rows)
        place[rows] = np.arange(len(rows))
        self.folder.write(f"pool_hash_{modality}", self.hashes[rows])
        shape = len(self.pool), self.pool.dim
        with self.folder.writing(f"pool_{modality}", shape) as vectors:
            for start, tile in self.pool.tiles(modality, TILE_ROWS):
                vectors[place[start : start + len(tile)]] = tile.numpy().astype(np.float16)
                progress.advance(len(tile))

    def _calibrated(self, modality: Modality, cells: Cells, rows: Rows) -> NearRecord:
        """Return the smallest margin at which held-out queries have enough near."""
        record, held_out = self.record, self.order[-HELD_OUT:]
        queries = self.pool.take(modality.other, held_out)
        own = torch.from_numpy(np.argsort(rows)[held_out])
        masses = torch.full((len(queries), len(cells)), float("-inf"), dtype=torch.float64)
        vectors, start = self.folder.array(f"pool_{modality}"), 0
        for mass, count in zip(masses.T, cells.counts.tolist(), strict=True):
            for low in range(start, start + count, TILE_ROWS):
                members = unit_rows(vectors[low : min(low + TILE_ROWS, start + count)])
                logits = logits_of(queries * record.logit_scale, members, record.logit_bias)
                leave_out_own(logits, own - low)
                mass.copy_(torch.logaddexp(mass, logits.double().logsumexp(dim=1)))
            start += count
        release(vectors)
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
