"""One modality's marginal, as a reference holds it: partitions of queries over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.partition import RunningPartition, leave_out_own
from clipdre.core.stratified import StratifiedPartition
from clipdre.core.tiles import accumulate, logits_of, tile_partition
from clipdre.formats.folders.embeddings import StoredPool, release, unit_rows
from clipdre.formats.folders.records import ReferenceRecord
from clipdre.formats.folders.reference import Hashes, ReferenceFolder

# Queries and references of a tile. On a CPU their logits stay in its cache; on a GPU the fused
# kernel never writes them, and without it they fit beside the model.
BLOCKS = {"cpu": (1024, 2048), "cuda": (16_384, 32_768)}


class Places:
    """Finds key hashes in an array of them."""

    def __init__(self, hashes: Hashes) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __call__(self, wanted: Hashes) -> Tensor:
        """Return the index of each wanted hash, -1 if it is missing; int64 of shape (n,)."""
        if not len(self._sorted):
            return torch.full((len(wanted),), -1)
        found = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        hit = self._sorted[found] == wanted
        return torch.from_numpy(np.where(hit, self._order[found], -1))


@dataclass(frozen=True)
class Bulk:
    """A uniform sample of the pool in folds, each of them a uniform sample too.

    Attributes
    ----------
    vectors : float32 Tensor of shape (m, d), unit rows, fold by fold
    hashes : uint64 array of shape (m,)
    folds : int
    """

    vectors: Tensor
    hashes: Hashes
    folds: int

    @cached_property
    def places(self) -> Places:
        """Finds a pair's own counterpart in the bulk."""
        return Places(self.hashes)


@dataclass(frozen=True)
class Reading:
    """How to read a marginal, if not as it was scored.

    Attributes
    ----------
    margin : float or None
        Another margin than the calibrated one; infinite evaluates every counterpart.
    bulk : Bulk or None
        Another bulk than the reference's.
    """

    margin: float | None = None
    bulk: Bulk | None = None


AS_SCORED = Reading()


class Marginal:
    """The pool's images, or its texts, as counterparts of the other modality's queries.

    Own counterparts are found by key hash, so a reference from another run leaves them out too.

    Parameters
    ----------
    modality : Modality
        Of the counterparts.
    pool : StoredPool, optional
        Where all vectors are read from if the reference holds none (`sample`).
    """

    def __init__(
        self,
        folder: ReferenceFolder,
        record: ReferenceRecord,
        modality: Modality,
        device: torch.device,
        pool: StoredPool | None = None,
    ) -> None:
        self._folder = folder
        self._record = record
        self._modality = modality
        self._device = device
        self._pool = pool
        self._block_rows, self._tile_rows = BLOCKS[device.type]
        self.moments: Moments = folder.moments(modality).to(device)
        self._places = Places(np.asarray(folder.array(f"pool_hash_{modality}")))

    @cached_property
    def cells(self) -> Cells:
        """Cells of a stratified reference."""
        return self._folder.cells(self._modality).to(self._device)

    @cached_property
    def _bulk(self) -> Bulk | None:
        if not self._record.bulk:
            return None
        vectors = np.asarray(self._folder.array(f"bulk_{self._modality}"))
        hashes = np.asarray(self._folder.array("bulk_hash"))
        return Bulk(unit_rows(vectors, self._device), hashes, self._record.folds)

    @property
    def margin(self) -> float | None:
        """Calibrated margin in nats; infinite if everything is near, None if nothing is."""
        if self._record.method == "exact":
            return math.inf
        return self._record.near[self._modality].margin if self._record.near else None

    def partition(
        self,
        queries: Tensor,
        hashes: Hashes,
        pair_logits: Tensor,
        reading: Reading = AS_SCORED,
    ) -> tuple[StratifiedPartition, Tensor]:
        """Return each query's partition over the pool without its own counterpart, and mean logit.

        Parameters
        ----------
        queries : float32 Tensor of shape (n, d)
            Unit rows of the other modality.
        hashes : uint64 array of shape (n,)
            Their key hashes.
        pair_logits : float64 Tensor of shape (n,)
            Logit of each query with its own counterpart.
        reading : Reading
        """
        margin = self.margin if reading.margin is None else reading.margin
        own = self._places(hashes).to(self._device)
        others = self._record.pairs - (own >= 0).double()
        chosen = None
        if margin is None:
            near = RunningPartition.empty(len(queries), device=self._device)
        elif math.isinf(margin):
            near = self._all(queries, own)
        else:
            chosen = self._chosen(queries, margin)
            near = self._near(queries, own, chosen)
        everything = margin is not None and math.isinf(margin)
        sampled = None if everything else reading.bulk or self._bulk
        folds = self._folds(queries, hashes, chosen, sampled)
        scale, bias = self._record.logit_scale, self._record.logit_bias
        mean = mean_logit(queries, self.moments, scale, bias, pair_logits, own >= 0)
        return StratifiedPartition(near, folds, others - near.weight), mean

    def _all(self, queries: Tensor, own: Tensor) -> RunningPartition:
        scale, bias = self._record.logit_scale, self._record.logit_bias
        return accumulate(
            queries, self._tiles(), scale=scale, bias=bias, own=own, query_rows=self._block_rows
        )

    def _tiles(self) -> Iterator[tuple[int, Tensor]]:
        if self._record.method == "sample":
            assert self._pool is not None  # a sample holds no other vectors
            yield from self._pool.tiles(self._modality, self._tile_rows)
            return
        vectors = self._folder.array(f"pool_{self._modality}")
        for start in range(0, len(vectors), self._tile_rows):
            yield start, unit_rows(vectors[start : start + self._tile_rows], self._device)
        release(vectors)

    def _chosen(self, queries: Tensor, margin: float) -> Tensor:
        """Return a mask of the cells near each query, shape (c, n)."""
        shape = len(self.cells), len(queries)
        chosen = torch.empty(shape, dtype=torch.bool, device=self._device)
        for start in range(0, len(queries), self._block_rows):
            rows = slice(start, start + self._block_rows)
            chosen[:, rows] = self.cells.near(queries[rows], self._record.logit_scale, margin).T
        return chosen

    def _near(self, queries: Tensor, own: Tensor, chosen: Tensor) -> RunningPartition:
        """Accumulate the members of the `chosen` cells, mask (c, n), cell by cell."""
        vectors = self._folder.array(f"pool_{self._modality}")
        near = RunningPartition.empty(len(queries), device=self._device)
        scaled = queries * self._record.logit_scale
        start = 0
        for takers, count in zip(chosen, self.cells.counts.tolist(), strict=True):
            rows, stop = torch.nonzero(takers).squeeze(1), start + count
            for low in range(start, stop if len(rows) else start, self._tile_rows):
                high = min(low + self._tile_rows, stop)
                members = unit_rows(vectors[low:high], self._device)
                # As many queries as fill a tile: cells grow with the pool, memory must not.
                for part in torch.split(rows, self._block_rows * self._tile_rows // len(members)):
                    taking, column = scaled.index_select(0, part), own[part] - low
                    bias = self._record.logit_bias
                    near.merge_rows(part, tile_partition(taking, members, bias, column))
            start = stop
        release(vectors)
        return near

    def _folds(
        self, queries: Tensor, hashes: Hashes, chosen: Tensor | None, bulk: Bulk | None
    ) -> RunningPartition:
        """Accumulate the bulk's members outside the `chosen` cells, fold by fold."""
        if bulk is None:
            return RunningPartition.empty(len(queries), 0, device=self._device)
        own = bulk.places(hashes).to(self._device)
        cell = None
        if chosen is not None:
            cell = self.cells.of_places(self._places(bulk.hashes).to(self._device))
        # Not a list of parts, which would keep the memory of large tiles from being used again.
        folds = RunningPartition.empty(len(queries), bulk.folds, device=self._device)
        for start in range(0, len(queries), self._block_rows):
            rows = slice(start, start + self._block_rows)
            scaled = queries[rows] * self._record.logit_scale
            logits = logits_of(scaled, bulk.vectors, self._record.logit_bias)
            mask = torch.zeros_like(logits, dtype=torch.bool)
            if chosen is not None and cell is not None:
                mask = chosen[:, rows].index_select(0, cell).T.contiguous()
            leave_out_own(mask, own[rows])
            shape = (len(logits), bulk.folds, len(bulk.hashes) // bulk.folds)
            part = RunningPartition.of(logits.view(shape), mask.view(shape))
            folds.merge_rows(torch.arange(start, start + len(logits), device=self._device), part)
        return folds
