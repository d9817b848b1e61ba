"""The passes over a pool that build its reference, as work for an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.cells import Cells, nearest
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.core.partition import QueryGroups, leave_out
from clipdre.core.stratified import HALVES
from clipdre.core.tiles import logits_of
from clipdre.engines.base import Advance
from clipdre.estimating.groups import half_of
from clipdre.estimating.runs import Item, Runs, sorted_by, tiles_of
from clipdre.formats.folders.embeddings import Stored, StoredPool, float_rows, release
from clipdre.formats.folders.parts import Arrays, Parts
from clipdre.formats.folders.reference import ReferenceFolder

Ints = npt.NDArray[np.int64]
CENTROIDS = "centroids"
# What workers read of all rows: `Parts.shared`.
HASHES, GROUPS, GROUPED = "hashes", "groups", "grouped"
VECTORS = "vectors"


@dataclass(frozen=True)
class Block(Item):
    """Consecutive rows of a pool; the part is their moments.

    Attributes
    ----------
    run : str
        Name of another part: their run.
    """

    modality: Modality
    run: str
    rows: range


@dataclass(frozen=True)
class BlockWork:
    """Computes the moments of blocks, and sorts them into runs by cell and half of the pool.

    Attributes
    ----------
    cells : int
        Number of cells; more than one have centroids. None sorts nothing.
    """

    pool: StoredPool
    parts: Parts
    cells: int | None

    def start(self, device: str, advance: Advance) -> Callable[[Block], None]:
        """See `clipdre.engines.base.Work`."""
        centroids = {}
        if self.cells is not None and self.cells > 1:
            for m in Modality:
                found = self.parts.read(f"{CENTROIDS}-{m}")[CENTROIDS]
                centroids[m] = torch.from_numpy(found).to(device)

        def do(block: Block) -> None:
            stored = self.pool.stored(block.modality, np.arange(block.rows.start, block.rows.stop))
            moments, cells = Moments.empty(self.pool.dim), np.zeros(len(stored), np.int64)
            for rows in tiles_of(range(len(stored))):
                tile = float_rows(stored[rows.start : rows.stop])
                moments = moments.merge(Moments.of(tile))
                if block.modality in centroids:
                    found = nearest(tile.to(device), centroids[block.modality]).squeeze(1)
                    cells[rows.start : rows.stop] = found.cpu().numpy()
                advance(len(tile), 0)
            if self.cells is not None:
                self._write_run(block, cells, self.cells, stored)
            arrays = {name: np.asarray(value) for name, value in vars(moments).items()}
            self.parts.write(block.part, arrays, block.made_of)

        return do

    def _write_run(self, block: Block, cells: Ints, count: int, stored: Stored) -> None:
        rows = slice(block.rows.start, block.rows.stop)
        hashes, groups = (self.parts.shared(name)[rows] for name in (HASHES, GROUPS))
        order, starts = sorted_by(HALVES * cells + half_of(hashes), HALVES * count)
        records = {HASHES: hashes[order], GROUPS: groups[order], VECTORS: stored[order]}
        self.parts.write(block.run, starts | records, block.made_of)


@dataclass(frozen=True)
class CellRange(Item):
    """Consecutive cells, whose vectors are one file of the reference."""

    modality: Modality
    file: str
    low: int
    high: int


@dataclass(frozen=True)
class Queries:
    """Held-out queries of one modality, which measure the mass of the other one's cells.

    Attributes
    ----------
    vectors : float32 Tensor of shape (n, d)
    groups : int64 Tensor of shape (n,)
        What they leave out; None counts all.
    scale, bias : float
        Of the logits.
    """

    vectors: Tensor
    groups: Tensor | None
    scale: float
    bias: float

    def log_masses(self, members: Tensor, groups: Tensor) -> Tensor:
        """Return the log mass of members, float64 of shape (n,)."""
        logits = logits_of(self.vectors * self.scale, members, self.bias)
        if self.groups is not None:
            leave_out(logits, QueryGroups.of(self.groups).left_out(groups))
        return logits.double().logsumexp(dim=1)


@dataclass(frozen=True)
class CellWork:
    """Merges runs: writes the vectors of cells, and what is known of each cell.

    Attributes
    ----------
    runs : mapping of Modality to Runs
    counts : mapping of Modality to int64 array of shape (cells * 2,)
        Rows of each cell and half of the pool.
    queries : mapping of Modality to Queries
        Those of the other modality; empty if cells need not be known.
    """

    folder: ReferenceFolder
    parts: Parts
    shape: tuple[int, type[np.floating]]
    runs: Mapping[Modality, Runs]
    counts: Mapping[Modality, Ints]
    queries: Mapping[Modality, Queries]

    def start(self, device: str, advance: Advance) -> Callable[[CellRange], None]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`; all of this is on the CPU."""

        def do(cells: CellRange) -> None:
            written, described = self._written(cells, advance)
            if self.queries:
                written |= {name: value.numpy() for name, value in vars(described).items()}
                written["masses"] = self._masses(cells, described.counts, written[GROUPS])
            self.parts.write(cells.part, written, cells.made_of)

        return do

    def _written(self, cells: CellRange, advance: Advance) -> tuple[Arrays, Cells]:
        """Write the vectors; return key hashes and groups in the same order, and the cells."""
        (dim, kind), low, high = self.shape, HALVES * cells.low, HALVES * cells.high
        counts = torch.from_numpy(self.counts[cells.modality][low:high].reshape(-1, HALVES)).sum(1)
        sums = torch.zeros(len(counts), dim, dtype=torch.float64)
        squares = torch.zeros(len(counts), dtype=torch.float64)
        own = torch.arange(len(counts)).repeat_interleave(counts)
        places = {HASHES: np.empty(len(own), np.uint64), GROUPS: np.empty(len(own), np.int64)}
        with self.folder.writing(cells.file, (len(own), dim), kind) as vectors:
            for start, records in self._records(cells.modality, low, high):
                tile = float_rows(records[VECTORS])
                rows = slice(start, start + len(tile))
                vectors[rows] = tile.numpy().astype(kind)
                sums.index_add_(0, own[rows], tile.double())
                squares.index_add_(0, own[rows], tile.square().sum(dim=1).double())
                for name, values in places.items():
                    values[rows] = records[name]
                advance(len(tile), 0)
        return places, Cells.of(counts, sums, squares)

    def _records(self, modality: Modality, low: int, high: int) -> Iterator[tuple[int, Arrays]]:
        """Yield tiles of the records of some keys, each with the place of its first one."""
        start = 0
        for records in self.runs[modality].records(self.counts[modality], low, high):
            for rows in tiles_of(range(len(records[HASHES]))):
                part = slice(rows.start, rows.stop)
                yield start, {name: values[part] for name, values in records.items()}
                start += len(rows)

    def _masses(self, cells: CellRange, counts: Tensor, groups: Ints) -> npt.NDArray[np.float64]:
        """Return the log mass of each cell for each query, shape (cells, queries)."""
        (dim, kind), queries = self.shape, self.queries[cells.modality]
        masses = torch.full((len(counts), len(queries.vectors)), -torch.inf, dtype=torch.float64)
        vectors = self.folder.array(cells.file, kind, len(groups), dim)
        of_members = torch.from_numpy(groups)
        ends = counts.cumsum(0)
        for mass, start, stop in zip(masses, (ends - counts).tolist(), ends.tolist(), strict=True):
            for rows in tiles_of(range(start, stop)):
                part = slice(rows.start, rows.stop)
                found = queries.log_masses(float_rows(vectors[part]), of_members[part])
                mass.copy_(torch.logaddexp(mass, found))
        release(vectors)
        return masses.numpy()


@dataclass(frozen=True)
class GroupRange(Item):
    """Consecutive groups, the sums of whose vectors are one file of the reference.

    Attributes
    ----------
    low, high : int
        Groups.
    start, stop : int
        Their rows among those of all groups.
    """

    modality: Modality
    file: str
    low: int
    high: int
    start: int
    stop: int


@dataclass(frozen=True)
class GroupWork:
    """Sums the vectors of groups of alike pairs."""

    pool: StoredPool
    folder: ReferenceFolder
    parts: Parts

    def start(self, device: str, advance: Advance) -> Callable[[GroupRange], None]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`."""
        rows = self.parts.shared(GROUPED)
        counts = self.folder.array("group_count", np.int64, None, HALVES)

        def do(own: GroupRange) -> None:
            sizes = counts[own.low : own.high].sum(axis=1)
            groups = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
            shape = len(sizes), self.pool.dim
            with self.folder.writing(own.file, shape, np.float32) as sums:
                for part in tiles_of(range(own.stop - own.start)):
                    members = rows[own.start + part.start : own.start + part.stop]
                    vectors = self.pool.take(own.modality, np.asarray(members))
                    of_members = groups[part.start : part.stop]
                    torch.from_numpy(sums).index_add_(0, of_members, vectors)
                    advance(len(members), 0)
            self.parts.write(own.part, {}, own.made_of)

        return do
