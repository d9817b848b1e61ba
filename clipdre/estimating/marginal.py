"""One modality's marginal, as a reference holds it: partitions of queries over it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clipdre.core.cells import Cells
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.partition import RunningPartition, leave_out_own
from clipdre.core.stratified import StratifiedPartition
from clipdre.core.tiles import accumulate, logits_of, tile_partition
from clipdre.formats.folders.embeddings import Modality, release, unit_rows
from clipdre.formats.folders.reference import Hashes, ReferenceFolder, ReferenceRecord

# Queries and references of a tile: on a CPU their logits stay in its cache, on a GPU they are not
# written at all where the kernel is fused, and fit beside the model where it is not.
BLOCKS = {"cpu": (1024, 2048), "cuda": (16_384, 32_768)}


class Places:
    """Finds key hashes in an array of them."""

    def __init__(self, hashes: Hashes) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def __call__(self, wanted: Hashes) -> Tensor:
        """Index of each wanted hash, -1 where it is not there; int64 of shape (n,)."""
        if not len(self._sorted):
            return torch.full((len(wanted),), -1)
        found = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        hit = self._sorted[found] == wanted
        return torch.from_numpy(np.where(hit, self._order[found], -1))


class Marginal:
    """The pool's images, or its texts, as counterparts of the other modality's queries.

    Own counterparts are found by key hash, so a reference of another run leaves them out as well.
    """

    def __init__(
        self, folder: ReferenceFolder, record: ReferenceRecord, side: Modality, device: torch.device
    ) -> None:
        self._folder = folder
        self._record = record
        self._side = side
        self._device = device
        self._block_rows, self._tile_rows = BLOCKS[device.type]
        self.moments: Moments = folder.moments(side).to(device)
        self._places = Places(np.asarray(folder.array(f"pool_hash_{side}")))

    @cached_property
    def _cells(self) -> Cells:
        return self._folder.cells(self._side).to(self._device)

    @cached_property
    def _bulk(self) -> Tensor:
        return unit_rows(np.asarray(self._folder.array(f"bulk_{self._side}")), self._device)

    @cached_property
    def _bulk_hash(self) -> Hashes:
        return np.asarray(self._folder.array("bulk_hash"))

    @cached_property
    def _bulk_places(self) -> Places:
        return Places(self._bulk_hash)

    @cached_property
    def _bulk_cell(self) -> Tensor:
        """Cell of each bulk member, int64 of shape (m,)."""
        return self._cells.of_places(self._places(self._bulk_hash).to(self._device))

    def partition(
        self, queries: Tensor, hashes: Hashes, pair_logits: Tensor
    ) -> tuple[StratifiedPartition, Tensor]:
        """Partition of each query over the pool without its own counterpart, and its mean logit.

        Parameters
        ----------
        queries : float32 Tensor of shape (n, d)
            Unit rows of the other modality.
        hashes : uint64 array of shape (n,)
            Their key hashes.
        pair_logits : float64 Tensor of shape (n,)
            Logit of each query with its own counterpart.
        """
        own = self._places(hashes).to(self._device)
        others = self._record.pairs - (own >= 0).double()
        chosen = None
        if self._record.method == "exact":
            near = self._all(queries, own)
        elif self._record.method == "stratified":
            margin = self._record.near[self._side].margin
            chosen = self._chosen(queries, margin)
            near = self._near(queries, own, chosen)
        else:
            near = RunningPartition.empty(len(queries), device=self._device)
        folds = self._folds(queries, hashes, chosen)
        scale, bias = self._record.logit_scale, self._record.logit_bias
        mean = mean_logit(queries, self.moments, scale, bias, pair_logits, own >= 0)
        return StratifiedPartition(near, folds, others - near.weight), mean

    def _all(self, queries: Tensor, own: Tensor) -> RunningPartition:
        scale, bias = self._record.logit_scale, self._record.logit_bias
        return accumulate(
            queries, self._tiles(), scale=scale, bias=bias, own=own, query_rows=self._block_rows
        )

    def _tiles(self) -> Iterator[tuple[int, Tensor]]:
        vectors = self._folder.array(f"pool_{self._side}")
        for start in range(0, len(vectors), self._tile_rows):
            yield start, unit_rows(vectors[start : start + self._tile_rows], self._device)
        release(vectors)

    def _chosen(self, queries: Tensor, margin: float) -> Tensor:
        parts = torch.split(queries, self._block_rows)
        return torch.cat([self._cells.near(p, self._record.logit_scale, margin) for p in parts])

    def _near(self, queries: Tensor, own: Tensor, chosen: Tensor) -> RunningPartition:
        """Over the members of the `chosen` cells, mask (n, c): cell by cell, for its takers."""
        vectors = self._folder.array(f"pool_{self._side}")
        near = RunningPartition.empty(len(queries), device=self._device)
        scaled = queries * self._record.logit_scale
        by_cell = chosen.T.contiguous()
        start = 0
        for cell, count in enumerate(self._cells.counts.tolist()):
            takers = torch.nonzero(by_cell[cell]).squeeze(1)
            if len(takers) and count:
                members = unit_rows(vectors[start : start + count], self._device)
                taking, column = scaled.index_select(0, takers), own[takers] - start
                part = tile_partition(taking, members, self._record.logit_bias, column)
                near.merge_rows(takers, part)
            start += count
        release(vectors)
        return near

    def _folds(self, queries: Tensor, hashes: Hashes, chosen: Tensor | None) -> RunningPartition:
        """Over the bulk's members outside of the `chosen` cells, fold by fold."""
        bulk, folds = self._record.bulk, self._record.folds
        if not bulk:
            return RunningPartition.empty(len(queries), 0, device=self._device)
        own = self._bulk_places(hashes).to(self._device)
        parts = []
        for start in range(0, len(queries), self._block_rows):
            rows = slice(start, start + self._block_rows)
            scaled = queries[rows] * self._record.logit_scale
            logits = logits_of(scaled, self._bulk, self._record.logit_bias)
            mask = torch.zeros_like(logits, dtype=torch.bool)
            if chosen is not None:
                mask = chosen[rows].index_select(1, self._bulk_cell)
            leave_out_own(mask, own[rows])
            shape = (len(logits), folds, bulk // folds)
            parts.append(RunningPartition.of(logits.view(shape), mask.view(shape)))
        return RunningPartition.cat(parts)
