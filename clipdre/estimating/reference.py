"""Embeddings to a reference: moments, bulk, cells, and how well they cover the pool."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from clipdre.config import EstimateConfig, Own, ReferenceMethod
from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.core.partition import QueryGroups, leave_out
from clipdre.core.stratified import HALVES
from clipdre.core.tiles import logits_of
from clipdre.errors import InputError, ScoresError
from clipdre.estimating.alike import Rows, find_leaders, inverse
from clipdre.estimating.groups import Groups, half_of
from clipdre.formats.folders.embeddings import StoredPool, float_rows, release, stored_type
from clipdre.formats.folders.records import VERSION, ModelRecord, NearRecord, ReferenceRecord
from clipdre.formats.folders.reference import Hashes, ReferenceFolder
from clipdre.progress import Progress
from clipdre.words import count as counted

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
# Near share of the pool from which on exact is about as fast as stratified, whose tiles are small;
# scripts/bench_estimate.py prints near shares and both times.
BREAK_EVEN = 0.3
# Extra nats: held-out queries are too few to show rare misses.
SAFETY = 2.0


def leaders_of(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    hashes: Hashes,
    model: ModelRecord,
    alike: float,
    folder: ReferenceFolder,
    device: torch.device,
) -> Rows:
    """Return the row that leads each row's group of alike pairs, found once and kept in `folder`.

    See `clipdre.estimating.alike.find_leaders`.
    """
    if len(pool) < 2:
        return np.arange(len(pool))
    settings = f"{alike} {model.identity}"
    digest = hashlib.sha256(settings.encode() + hashes.tobytes()).hexdigest()
    leaders = folder.leaders(digest, len(pool))
    if leaders is None:
        folder.path.mkdir(parents=True, exist_ok=True)
        ranks = inverse(np.argsort(hashes, kind="stable"))
        leaders = find_leaders(pool, ranks, alike, folder.path, device)
        folder.write_leaders(leaders, digest)
    return leaders


def build_reference(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    hashes: Hashes,
    leaders: Rows,
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
    leaders : int64 array of shape (n,)
        See `leaders_of`.

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
    order = np.argsort(hashes, kind="stable")
    groups = Groups.led_by(leaders, half_of(hashes))
    near = _Builder(pool, hashes, order, groups, record, folder).build()
    share = float(np.mean([n.share for n in near.values()])) if near else 0.0
    if share > BREAK_EVEN and config.method is ReferenceMethod.AUTO:
        warnings.warn(
            f"{share:.0%} of the pool is near to a pair on average, so exact takes no longer than "
            "stratified: the reference is exact",
            stacklevel=2,
        )
        record = msgspec.structs.replace(
            record, method=ReferenceMethod.EXACT.value, bulk=0, folds=0, neighbors=0
        )
        near = _Builder(pool, hashes, order, groups, record, folder).build()
    finished = msgspec.structs.replace(record, near=near)
    folder.write_record(finished)
    return finished


def _method(pairs: int, config: EstimateConfig) -> ReferenceMethod:
    if pairs < 2:
        raise InputError(
            f"the shards hold {counted(pairs, 'usable pair')}, and a ratio compares it with others",
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
        # Both halves of the pool give as many.
        smaller = int(np.bincount(half_of(hashes), minlength=HALVES).min())
        folds = FOLDS
        bulk = min(config.bulk, HALVES * smaller) // FOLDS * FOLDS
        if bulk < 2 * FOLDS:
            raise InputError(
                f"`bulk` {config.bulk} of {pairs:,} pairs is too small for {FOLDS} folds of two",
                f"use `bulk` {2 * FOLDS} or more, or `reference` exact",
            )
    neighbors = min(config.neighbors, pairs) if method is ReferenceMethod.STRATIFIED else 0
    settings = (
        f"{VERSION} {method.value} {neighbors} {bulk} {folds} {MISSED} {SAFETY} {config.alike} "
        f"{config.own.value} {model.identity}"
    )
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
        version=VERSION,
        alike=config.alike,
        own=config.own.value,
        inner_product=model.inner_product,
    )


def _moments(pool: StoredPool, modality: Modality) -> Moments:
    moments = Moments.empty(pool.dim)
    for _, tile in pool.tiles(modality, TILE_ROWS):
        moments = moments.merge(Moments.of(tile))
    return moments


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


@dataclass(frozen=True)
class _Builder:
    """Writes the files of one reference.

    Attributes
    ----------
    order : int64 array of shape (n,)
        The pool's rows by key hash; a stable order, so that repeated hashes give the same draw.
    groups : Groups
    record : ReferenceRecord
        Everything but how near counterparts are chosen.
    """

    pool: StoredPool
    hashes: Hashes
    order: Rows
    groups: Groups
    record: ReferenceRecord
    folder: ReferenceFolder

    @property
    def _kind(self) -> type[np.floating]:
        return stored_type(self.record.inner_product)

    def build(self) -> dict[Modality, NearRecord]:
        """Write all files but the record; return how near counterparts are chosen."""
        self.folder.write_moments({m: _moments(self.pool, m) for m in Modality})
        self._write_groups()
        if self.record.bulk:
            self._write_bulk()
        if self.record.method == ReferenceMethod.SAMPLE:
            for modality in Modality:
                self._write_places(modality, np.arange(len(self.pool)))
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

    def _write_groups(self) -> None:
        """Write the sizes of groups and the sums of their vectors."""
        counts, of_rows = self.groups.counts, torch.from_numpy(self.groups.of_rows)
        self.folder.write("group_count", counts)
        for modality in Modality:
            name, shape = f"group_sum_{modality}", (len(counts), self.pool.dim)
            if not len(counts):  # numpy maps no array without elements
                self.folder.write(name, np.zeros(shape, np.float32))
                continue
            with self.folder.writing(name, shape, np.float32) as sums:
                for start, tile in self.pool.tiles(modality, TILE_ROWS):
                    of_tile = of_rows[start : start + len(tile)]
                    grouped = of_tile < len(counts)
                    torch.from_numpy(sums).index_add_(0, of_tile[grouped], tile[grouped])

    def _write_places(self, modality: Modality, rows: Rows) -> None:
        """Write key hashes and groups in the order of `rows`."""
        self.folder.write(f"pool_hash_{modality}", self.hashes[rows])
        self.folder.write(f"pool_group_{modality}", self.groups.of_rows[rows])

    def _write_bulk(self) -> None:
        halves = half_of(self.hashes)
        rows = bulk_rows(self.order, halves, self.record.bulk, self.record.folds)
        self.folder.write("bulk_hash", self.hashes[rows])
        for modality in Modality:
            vectors = self.pool.take(modality, rows).numpy().astype(self._kind)
            self.folder.write(f"bulk_{modality}", vectors)

    def _sorted_into_cells(
        self, modality: Modality, progress: Progress
    ) -> tuple[Cells | None, Rows]:
        """Return the cells, None if exact, and the pool's rows by cell and half."""
        pairs, halves = len(self.pool), half_of(self.hashes)
        if self.record.method == ReferenceMethod.EXACT:
            progress.advance(pairs)
            return None, np.argsort(halves, kind="stable")
        # faiss takes long to load, and exact runs do not need it
        from clipdre.clusters.kmeans import TRAINING_PER_CELL, cluster  # noqa: PLC0415

        count = max(1, min(pairs // 8, round(CELLS_PER_ROOT * pairs**0.5)))

        def tiles() -> Iterator[tuple[int, Tensor]]:
            for start, tile in self.pool.tiles(modality, TILE_ROWS):
                yield start, tile
                progress.advance(len(tile))

        training = self.pool.take(modality, self.order[: TRAINING_PER_CELL * count])
        cells, assigned = cluster(training, count, pairs, tiles)
        return cells, np.lexsort((halves, assigned))

    def _write_pool(self, modality: Modality, rows: Rows, progress: Progress) -> None:
        """Write all vectors in the order of `rows`."""
        place = inverse(rows)
        self._write_places(modality, rows)
        shape = len(self.pool), self.pool.dim
        with self.folder.writing(f"pool_{modality}", shape, self._kind) as vectors:
            for start, tile in self.pool.tiles(modality, TILE_ROWS):
                vectors[place[start : start + len(tile)]] = tile.numpy().astype(self._kind)
                progress.advance(len(tile))

    def _calibrated(self, modality: Modality, cells: Cells, rows: Rows) -> NearRecord:
        """Return the smallest margin at which held-out queries have enough near."""
        record, held_out = self.record, self.order[-HELD_OUT:]
        queries = self.pool.take(modality.other, held_out)
        groups = torch.from_numpy(self.groups.of_rows)
        own = QueryGroups.of(groups[held_out])
        masses = torch.full((len(queries), len(cells)), float("-inf"), dtype=torch.float64)
        shape = len(self.pool), self.pool.dim
        vectors, start = self.folder.array(f"pool_{modality}", self._kind, *shape), 0
        for mass, count in zip(masses.T, cells.counts.tolist(), strict=True):
            for low in range(start, start + count, TILE_ROWS):
                members = float_rows(vectors[low : min(low + TILE_ROWS, start + count)])
                logits = logits_of(queries * record.logit_scale, members, record.logit_bias)
                if record.own == Own.LEFT_OUT:
                    of_members = groups[rows[low : low + len(members)]]
                    leave_out(logits, own.left_out(of_members))
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
