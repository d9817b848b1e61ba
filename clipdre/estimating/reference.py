"""Embeddings to a reference: moments, bulk, cells, and how well they cover the pool."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property

import msgspec
import numpy as np
import torch

from clipdre.config import EstimateConfig, Own, ReferenceMethod
from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.core.stratified import HALVES
from clipdre.engines.base import Engine
from clipdre.engines.local import InProcess
from clipdre.errors import InputError, ScoresError
from clipdre.estimating.alike import Rows, find_leaders
from clipdre.estimating.draws import bulk_rows, largest, smallest
from clipdre.estimating.groups import Groups, half_of
from clipdre.estimating.margins import MISSED, SAFETY, smallest_margin
from clipdre.estimating.passes import (
    CENTROIDS,
    GROUPED,
    GROUPS,
    HASHES,
    Block,
    BlockWork,
    CellRange,
    CellWork,
    GroupRange,
    GroupWork,
    Queries,
)
from clipdre.estimating.runs import (
    Runs,
    blocks_of,
    engine_for,
    identity_of,
    ranges_of,
    run_missing,
)
from clipdre.formats.folders.embeddings import StoredPool, stored_type
from clipdre.formats.folders.parts import Arrays, Parts, digest_of, digest_of_numbers
from clipdre.formats.folders.records import VERSION, ModelRecord, NearRecord, ReferenceRecord
from clipdre.formats.folders.reference import SEGMENT_BYTES, Hashes, ReferenceFolder, segment
from clipdre.progress import Progress
from clipdre.words import count as counted

# Subfolders for what is not complete yet.
FINDING, BUILDING = ".finding", ".building"
EXACT_UP_TO = 32_768
FOLDS = 16
# More, smaller cells miss less at equal cost, until the centroids themselves cost as much.
CELLS_PER_ROOT = 3
HELD_OUT = 256
# Near share of the pool from which on exact is about as fast as stratified, whose tiles are small;
# scripts/bench_estimate.py prints near shares and both times.
BREAK_EVEN = 0.3


def leaders_of(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    hashes: Hashes,
    model: ModelRecord,
    alike: float,
    folder: ReferenceFolder,
    engine: Engine,
) -> Rows:
    """Return the row that leads each row's group of alike pairs, found once and kept in `folder`.

    See `clipdre.estimating.alike.find_leaders`.
    """
    if len(pool) < 2:
        return np.arange(len(pool))
    digest = digest_of_numbers(f"{alike} {model.identity}", hashes)
    leaders = folder.leaders(digest, len(pool))
    if leaders is None:
        parts = Parts(folder.path / FINDING, digest)
        leaders = find_leaders(pool, np.argsort(hashes, kind="stable"), alike, parts, engine)
        folder.write_leaders(leaders, digest)
        parts.remove()
    return leaders


def build_reference(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    hashes: Hashes,
    leaders: Rows,
    model: ModelRecord,
    config: EstimateConfig,
    folder: ReferenceFolder,
    engine: Engine | None = None,
) -> ReferenceRecord:
    """Write the reference of a pool, or keep the one that is there if it is the same.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        Key hash of each row of the pool: the smallest make the bulk, the largest the held-out
        queries.
    leaders : int64 array of shape (n,)
        See `leaders_of`.
    engine : Engine, optional
        Where the passes over the pool run; in this process by default. The files do not depend on
        it. What it has done is kept beside them until they are complete, so a killed run resumes.

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
    engine = engine_for(engine or InProcess("cpu"), len(pool))
    groups = Groups.led_by(leaders, half_of(hashes))
    near = _Builder(pool, hashes, groups, record, folder, engine).build()
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
        near = _Builder(pool, hashes, groups, record, folder, engine).build()
    finished = msgspec.structs.replace(record, near=near)
    folder.write_record(finished)
    Parts(folder.path / BUILDING, "").remove()
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
    digest = digest_of_numbers(settings, hashes)
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


@dataclass(frozen=True)
class _Builder:
    """Writes the files of one reference.

    Attributes
    ----------
    groups : Groups
    record : ReferenceRecord
        Everything but how near counterparts are chosen.
    """

    pool: StoredPool
    hashes: Hashes
    groups: Groups
    record: ReferenceRecord
    folder: ReferenceFolder
    engine: Engine

    @property
    def _kind(self) -> type[np.floating]:
        return stored_type(self.record.inner_product)

    @cached_property
    def _files(self) -> str:
        """Which files the pool is in, so that a shard that has changed is read again."""
        return identity_of(self.pool, range(len(self.pool)))

    @property
    def _cells(self) -> int | None:
        """Number of cells; None if the reference holds no pool."""
        if self.record.method == ReferenceMethod.SAMPLE:
            return None
        if self.record.method == ReferenceMethod.EXACT:
            return 1
        pairs = len(self.pool)
        return max(1, min(pairs // 8, round(CELLS_PER_ROOT * float(np.sqrt(pairs)))))

    def build(self) -> dict[Modality, NearRecord]:
        """Write all files but the record; return how near counterparts are chosen."""
        digest = digest_of_numbers(
            f"{self.record.digest} {self.record.method}", self.groups.of_rows
        )
        parts = Parts(self.folder.path / BUILDING, digest)
        parts.share(HASHES, self.hashes)
        parts.share(GROUPS, self.groups.of_rows)
        self._write_groups(parts)
        if self.record.bulk:
            self._write_bulk()
        stratified = self.record.method == ReferenceMethod.STRATIFIED
        if stratified:
            self._train_centroids(parts)
        passes = 2 if self._cells is None else 4
        with Progress("reference", passes * len(self.pool)) as progress:
            blocks = self._blocks(parts)
            work = BlockWork(self.pool, parts, self._cells)
            run_missing(self.engine, work, blocks, parts, progress)
            self._write_moments(parts, blocks)
            if self._cells is None:
                for modality in Modality:
                    whole = {HASHES: self.hashes, GROUPS: self.groups.of_rows}
                    self._write_places(modality, [whole])
                return {}
            ranges = self._merge(parts, blocks, progress)
        for modality in Modality:
            own = (cells.part for cells in ranges if cells.modality is modality)
            self._write_places(modality, map(parts.read, own))
        return {m: self._calibrated(m, parts, ranges) for m in Modality} if stratified else {}

    def _blocks(self, parts: Parts) -> list[Block]:
        """Return all blocks, those of images first."""
        rows = blocks_of(len(self.pool))
        made_of = [identity_of(self.pool, block) for block in rows]
        blocks = []
        for m in Modality:
            # Training may end with other last bits on another machine.
            trained = parts.digest(f"{CENTROIDS}-{m}")
            blocks += [
                Block(
                    f"moments-{m}-{n}", f"{made_of[n]} {trained}", len(own), m, f"run-{m}-{n}", own
                )
                for n, own in enumerate(rows)
            ]
        return blocks

    def _write_moments(self, parts: Parts, blocks: list[Block]) -> None:
        """Merge the moments of blocks in their order, so that they are the same to the last bit."""
        moments = {m: Moments.empty(self.pool.dim) for m in Modality}
        for block in blocks:
            arrays = parts.read(block.part)
            mean, covariance = (torch.from_numpy(arrays[n]) for n in ("mean", "covariance"))
            part = Moments(int(arrays["count"]), mean, covariance)
            moments[block.modality] = moments[block.modality].merge(part)
        self.folder.write_moments(moments)

    def _write_groups(self, parts: Parts) -> None:
        """Write the sizes of groups and the sums of their vectors."""
        counts, of_rows = self.groups.counts, self.groups.of_rows
        self.folder.write("group_count", counts)
        if not len(counts):  # numpy maps no array without elements
            for modality in Modality:
                self.folder.keep_segments(f"group_sum_{modality}", 1)
                self.folder.write(f"group_sum_{modality}", np.zeros((0, self.pool.dim), np.float32))
            return
        grouped = np.flatnonzero(of_rows < len(counts))
        parts.share(GROUPED, grouped[np.argsort(of_rows[grouped], kind="stable")])
        work, ranges = GroupWork(self.pool, self.folder, parts), self._group_ranges()
        with Progress("groups", HALVES * len(grouped)) as progress:
            run_missing(engine_for(self.engine, len(grouped)), work, ranges, parts, progress)

    def _group_ranges(self) -> list[GroupRange]:
        """Divide the groups into files."""
        sizes = self.groups.counts.sum(axis=1)
        ends = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        most = max(1, SEGMENT_BYTES // (4 * self.pool.dim))
        lows = range(0, len(sizes), most)
        ranges = []
        for modality in Modality:
            self.folder.keep_segments(f"group_sum_{modality}", len(lows))
            for n, low in enumerate(lows):
                file = segment(f"group_sum_{modality}", n, len(lows))
                high = min(low + most, len(sizes))
                own = modality, file, low, high, ends[low], ends[high]
                ranges.append(GroupRange(file, self._files, ends[high] - ends[low], *own))
        return ranges

    def _write_places(self, modality: Modality, pieces: Iterable[Arrays]) -> None:
        """Write key hashes and groups, which are in pieces."""
        length, start = (len(self.pool),), 0
        with (
            self.folder.writing(f"pool_hash_{modality}", length, np.uint64) as hashes,
            self.folder.writing(f"pool_group_{modality}", length, np.int64) as groups,
        ):
            for piece in pieces:
                stop = start + len(piece[HASHES])
                hashes[start:stop], groups[start:stop] = piece[HASHES], piece[GROUPS]
                start = stop

    def _write_bulk(self) -> None:
        halves, bulk = half_of(self.hashes), self.record.bulk
        of_halves = (np.flatnonzero(halves == half) for half in range(HALVES))
        order = [own[smallest(self.hashes[own], bulk // HALVES)] for own in of_halves]
        rows = bulk_rows(np.concatenate(order), halves, bulk, self.record.folds)
        self.folder.write("bulk_hash", self.hashes[rows])
        for modality in Modality:
            vectors = self.pool.take(modality, rows).numpy().astype(self._kind)
            self.folder.write(f"bulk_{modality}", vectors)

    def _train_centroids(self, parts: Parts) -> None:
        """Train the centroids of both modalities on a sample, and keep them."""
        # faiss takes long to load, and exact runs do not need it
        from clipdre.clusters.kmeans import TRAINING_PER_CELL, trained_centroids  # noqa: PLC0415

        count = self._cells
        assert count is not None
        rows = smallest(self.hashes, TRAINING_PER_CELL * count)
        for modality in Modality:
            name = f"{CENTROIDS}-{modality}"
            if not parts.has(name, self._files):
                found = trained_centroids(self.pool.take(modality, rows), count)
                parts.write(name, {CENTROIDS: found.numpy()}, self._files)

    def _merge(self, parts: Parts, blocks: list[Block], progress: Progress) -> list[CellRange]:
        """Write the vectors of both modalities by cell and half; return what was written."""
        most = len(blocks[0].rows)
        paths = {m: [parts.file(b.run) for b in blocks if b.modality is m] for m in Modality}
        runs = {m: Runs(own, most) for m, own in paths.items()}
        counts = {m: own.counts() for m, own in runs.items()}
        made_of = digest_of([block.made_of for block in blocks])
        ranges = [r for m in Modality for r in self._cell_ranges(m, counts[m], made_of)]
        shape = self.pool.dim, self._kind
        work = CellWork(self.folder, parts, shape, runs, counts, self._queries())
        run_missing(self.engine, work, ranges, parts, progress)
        return ranges

    def _cell_ranges(self, modality: Modality, counts: Rows, made_of: str) -> Iterator[CellRange]:
        """Divide the cells of a modality into files."""
        of_cells = counts.reshape(-1, HALVES).sum(axis=1)
        row_bytes = self.pool.dim * np.dtype(self._kind).itemsize
        found = list(ranges_of(of_cells, max(1, SEGMENT_BYTES // row_bytes)))
        self.folder.keep_segments(f"pool_{modality}", len(found))
        for n, (low, high) in enumerate(found):
            file = segment(f"pool_{modality}", n, len(found))
            size = int(of_cells[low:high].sum())
            yield CellRange(file, made_of, size, modality, file, low, high)

    def _queries(self) -> dict[Modality, Queries]:
        """Return the queries that measure the cells of each modality, if there are several."""
        if self.record.method != ReferenceMethod.STRATIFIED:
            return {}
        rows = largest(self.hashes, HELD_OUT)
        own = self.record.own == Own.LEFT_OUT
        groups = torch.from_numpy(self.groups.of_rows[rows]) if own else None
        logits = self.record.logit_scale, self.record.logit_bias
        return {m: Queries(self.pool.take(m.other, rows), groups, *logits) for m in Modality}

    def _calibrated(
        self, modality: Modality, parts: Parts, ranges: Sequence[CellRange]
    ) -> NearRecord:
        """Write the cells; return the smallest margin at which queries have enough near."""
        found = [parts.read(cells.part) for cells in ranges if cells.modality is modality]
        names = (field.name for field in fields(Cells))
        cells = Cells(*(torch.from_numpy(np.concatenate([p[n] for p in found])) for n in names))
        self.folder.write_cells(modality, cells)
        masses = torch.from_numpy(np.concatenate([part["masses"] for part in found])).T
        queries = self._queries()[modality].vectors
        return smallest_margin(queries, cells, torch.softmax(masses, dim=1), self.record)
