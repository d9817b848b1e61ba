"""One modality's marginal, as a reference holds it: partitions of queries over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.partition import QueryGroups, RunningPartition, leave_out, select_rows
from clipdre.core.stratified import HALVES, StratifiedPartition
from clipdre.core.tiles import accumulate, logits_of, tile_partition
from clipdre.errors import ScoresError
from clipdre.estimating.groups import check_groups, half_of, left_out
from clipdre.formats.folders.embeddings import StoredPool, float_rows, release, stored_type
from clipdre.formats.folders.records import ReferenceRecord
from clipdre.formats.folders.reference import CURE, Hashes, ReferenceFolder
from clipdre.formats.folders.stacked import Rows

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
    """A uniform sample of the pool in folds, each of them a uniform sample of half the pool.

    Attributes
    ----------
    vectors : float32 Tensor of shape (m, d), fold by fold
    hashes : uint64 array of shape (m,)
    folds : int
        The first half of them are from the first half of the pool.
    """

    vectors: Tensor
    hashes: Hashes
    folds: int


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

    Queries come with the number of their group, see `Estimator.groups`.

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
        self.moments: Moments = folder.moments(modality, record.embedding_dim).to(device)
        pairs, dim = record.pairs, record.embedding_dim
        self.hashes = np.asarray(folder.array(f"pool_hash_{modality}", np.uint64, pairs))
        self.places = Places(self.hashes)
        # Group of each place, sizes of groups, and sums of their vectors.
        self.groups = folder.array(f"pool_group_{modality}", np.int64, pairs)
        counts = np.asarray(folder.array("group_count", np.int64, None, HALVES))
        self._counts = torch.tensor(counts, device=device)
        self._sums = folder.rows(f"group_sum_{modality}", np.float32, len(counts), dim)
        try:
            check_groups(np.asarray(self.groups), half_of(self.hashes), counts)
            self._check_halves()
        except ValueError as error:  # the folder may be a stranger's
            raise ScoresError(
                f"the reference in {folder.path} is damaged ({error})", CURE
            ) from error

    def _check_halves(self) -> None:
        """Raise ValueError unless cells and folds are of one half, then of the other."""
        if self._record.bulk:
            hashes = np.asarray(self._folder.array("bulk_hash", np.uint64, self._record.bulk))
            halves = np.repeat(np.arange(HALVES), self._record.bulk // HALVES)
            if (half_of(hashes) != halves).any() or bool((self.places(hashes) < 0).any()):
                raise ValueError("its bulk is not drawn from the pool")
        if not self.is_sample:
            starts = np.zeros(len(self.hashes), bool)
            firsts = self.stretches[:, 0]
            starts[firsts[firsts < len(starts)]] = True
            falls = np.diff(half_of(self.hashes)) < 0
            if (falls & ~starts[1:]).any():
                raise ValueError("its halves are mixed")

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def has_cells(self) -> bool:
        """Whether the reference is stratified."""
        return self._record.method == "stratified"

    @property
    def has_lengths(self) -> bool:
        """Whether logits are of inner products of vectors of any length."""
        return self._record.inner_product

    @property
    def _kind(self) -> type[np.floating]:
        return stored_type(self.has_lengths)

    @property
    def is_sample(self) -> bool:
        """Whether the reference holds no vectors but its bulk."""
        return self._record.method == "sample"

    @cached_property
    def cells(self) -> Cells:
        """Cells of a stratified reference."""
        dim, pairs = self._record.embedding_dim, self._record.pairs
        return self._folder.cells(self._modality, dim, pairs).to(self._device)

    @cached_property
    def bulk(self) -> Bulk | None:
        """The reference's uniform sample; None if everything is near."""
        if not self._record.bulk:
            return None
        bulk, dim = self._record.bulk, self._record.embedding_dim
        vectors = np.asarray(self._folder.array(f"bulk_{self._modality}", self._kind, bulk, dim))
        hashes = np.asarray(self._folder.array("bulk_hash", np.uint64, bulk))
        return Bulk(float_rows(vectors, self._device), hashes, self._record.folds)

    @property
    def margin(self) -> float | None:
        """Calibrated margin in nats; infinite if everything is near, None if nothing is."""
        if self._record.method == "exact":
            return math.inf
        near = self._record.near.get(self._modality)
        return None if near is None else near.margin

    def partition(
        self,
        queries: Tensor,
        groups: Tensor,
        pair_logits: Tensor,
        reading: Reading = AS_SCORED,
    ) -> tuple[StratifiedPartition, Tensor]:
        """Return each query's partition over the pool without its group, and its mean logit.

        Parameters
        ----------
        queries : float32 Tensor of shape (n, d)
            Vectors of the other modality.
        groups : int64 Tensor of shape (n,)
            Their groups, whose counterparts are left out.
        pair_logits : float64 Tensor of shape (n,)
            Logit of each query with its own counterpart.
        reading : Reading
        """
        margin = self.margin if reading.margin is None else reading.margin
        chosen = None
        if margin is None:
            near = RunningPartition.empty(len(queries), HALVES, device=self._device)
        elif math.isinf(margin):
            near = self._all(queries, groups)
        else:
            chosen = self._chosen(queries, margin)
            near = self._near(queries, groups, chosen)
        everything = margin is not None and math.isinf(margin)
        sampled = None if everything else reading.bulk or self.bulk
        folds = self._folds(queries, groups, chosen, sampled)
        absent = left_out(groups, self._counts)
        rest = self._sizes - absent - near.weight
        mean = self._mean_logit(queries, groups, pair_logits, absent.sum(dim=1))
        return StratifiedPartition(near, folds, rest.double()), mean

    def _mean_logit(
        self, queries: Tensor, groups: Tensor, pair_logits: Tensor, absent: Tensor
    ) -> Tensor:
        scale, bias = self._record.logit_scale, self._record.logit_bias
        # A pair that is alone leaves out its own counterpart, or one that is as good.
        total = absent * pair_logits
        several = torch.nonzero((groups >= 0) & (groups < len(self._counts))).squeeze(1)
        if len(several):
            sums = self._sums[groups[several].cpu().numpy()]
            vectors = torch.tensor(np.asarray(sums), device=self._device)
            products = torch.linalg.vecdot(queries[several], vectors).double()
            total[several] = scale * products + bias * absent[several]
        return mean_logit(queries, self.moments, scale, bias, total, absent)

    def _all(self, queries: Tensor, groups: Tensor) -> RunningPartition:
        scale, bias = self._record.logit_scale, self._record.logit_bias
        halves = [
            accumulate(
                queries,
                self._tiles(half),
                scale=scale,
                bias=bias,
                groups=groups,
                query_rows=self._block_rows,
                has_lengths=self.has_lengths,
            )
            for half in range(HALVES)
        ]
        return RunningPartition.stack(halves)

    def _tiles(self, half: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one half of the pool with its groups, tile by tile."""
        if self.is_sample:
            assert self._pool is not None  # a sample holds no other vectors
            for start, tile in self._pool.tiles(self._modality, self._tile_rows):
                own = np.flatnonzero(half_of(self.hashes[start : start + len(tile)]) == half)
                yield tile[own].to(self._device), self._groups_of(start + own)
            return
        vectors = self._vectors
        for first, last in self.stretches[:, half : half + HALVES].tolist():
            for start in range(first, last, self._tile_rows):
                places = slice(start, min(start + self._tile_rows, last))
                yield float_rows(vectors[places], self._device), self._groups_of(places)
        release(vectors)

    @cached_property
    def _sizes(self) -> Tensor:
        """Pairs of each half of the pool, int64 of shape (2,)."""
        sizes = np.bincount(half_of(self.hashes), minlength=HALVES)
        return torch.from_numpy(sizes).to(self._device)

    @cached_property
    def stretches(self) -> npt.NDArray[np.int64]:
        """Where each cell begins, its second half begins, and it ends; int64 of shape (c, 3)."""
        counts = [len(self.hashes)]
        if self.has_cells:
            counts = self.cells.counts.tolist()
        ends = np.cumsum(counts)
        starts = ends - counts
        of_first = np.concatenate([[0], np.cumsum(half_of(self.hashes) == 0)])
        return np.stack([starts, starts + of_first[ends] - of_first[starts], ends], axis=1)

    def vectors(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Return the vectors at some places, float32 of shape (n, d)."""
        return float_rows(self._vectors[places], self._device)

    @cached_property
    def _vectors(self) -> Rows:
        shape = self._record.pairs, self._record.embedding_dim
        return self._folder.rows(f"pool_{self._modality}", self._kind, *shape)

    def _groups_of(self, places: slice | npt.NDArray[np.int64]) -> Tensor:
        return torch.tensor(np.asarray(self.groups[places]), device=self._device)

    def _chosen(self, queries: Tensor, margin: float) -> Tensor:
        """Return a mask of the cells near each query, shape (c, n)."""
        shape = len(self.cells), len(queries)
        chosen = torch.empty(shape, dtype=torch.bool, device=self._device)
        for start in range(0, len(queries), self._block_rows):
            rows = slice(start, start + self._block_rows)
            chosen[:, rows] = self.cells.near(queries[rows], self._record.logit_scale, margin).T
        return chosen

    def _near(self, queries: Tensor, groups: Tensor, chosen: Tensor) -> RunningPartition:
        """Accumulate the members of the `chosen` cells, mask (c, n), cell by cell."""
        vectors = self._vectors
        near = RunningPartition.empty(len(queries), HALVES, device=self._device)
        scaled, bias = queries * self._record.logit_scale, self._record.logit_bias
        own = QueryGroups.of(groups)
        for takers, (first, middle, last) in zip(chosen, self.stretches.tolist(), strict=True):
            rows = torch.nonzero(takers).squeeze(1)
            for low in range(first, last if len(rows) else first, self._tile_rows):
                high = min(low + self._tile_rows, last)
                members = float_rows(vectors[low:high], self._device)
                left_out = own.left_out(self._groups_of(slice(low, high)))
                split = min(max(middle - low, 0), high - low)
                # As many queries as fill a tile: cells grow with the pool, memory must not.
                for part in torch.split(rows, self._block_rows * self._tile_rows // len(members)):
                    taking, of_part = scaled.index_select(0, part), select_rows(left_out, part)
                    found = tile_partition(taking, members, bias, of_part, split)
                    near.merge_rows(part, found)
        release(vectors)
        return near

    def _folds(
        self, queries: Tensor, groups: Tensor, chosen: Tensor | None, bulk: Bulk | None
    ) -> RunningPartition:
        """Accumulate the bulk's members outside the `chosen` cells, fold by fold."""
        if bulk is None:
            return RunningPartition.empty(len(queries), 0, device=self._device)
        places = self.places(bulk.hashes)
        members = self._groups_of(places.numpy())
        cell = None if chosen is None else self.cells.of_places(places.to(self._device))
        # Not a list of parts, which would keep the memory of large tiles from being used again.
        folds = RunningPartition.empty(len(queries), bulk.folds, device=self._device)
        for start in range(0, len(queries), self._block_rows):
            rows = slice(start, start + self._block_rows)
            scaled = queries[rows] * self._record.logit_scale
            logits = logits_of(scaled, bulk.vectors, self._record.logit_bias)
            mask = torch.zeros_like(logits, dtype=torch.bool)
            if chosen is not None and cell is not None:
                mask = chosen[:, rows].index_select(0, cell).T.contiguous()
            leave_out(mask, QueryGroups.of(groups[rows]).left_out(members))
            shape = (len(logits), bulk.folds, len(bulk.hashes) // bulk.folds)
            part = RunningPartition.of(logits.view(shape), mask.view(shape))
            folds.merge_rows(torch.arange(start, start + len(logits), device=self._device), part)
        return folds
