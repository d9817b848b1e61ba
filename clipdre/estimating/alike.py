"""Pairs that are alike on both sides: copies, and what is as good as one.

Two pairs are alike if the cosines of their images and of their captions both exceed a threshold.
Ranked by key hash, each pair points to the smallest pair it is alike to; pairs that lead to the
same one are a group. So a group does not depend on the order of the shards, on tiles or devices.

Alike pairs are near as concatenated vectors too. Large pools are divided into cells of those, and a
pair is compared with the members of the few cells nearest to it. A worker sorts a block of pairs by
these cells, or compares the pairs of a few cells; nobody holds the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.cells import nearest
from clipdre.core.modality import Modality
from clipdre.core.spherical import concatenated
from clipdre.engines.base import Advance, Engine
from clipdre.estimating.runs import (
    Item,
    Runs,
    blocks_of,
    engine_for,
    identity_of,
    ranges_of,
    run_missing,
    sorted_by,
    tiles_of,
)
from clipdre.formats.folders.embeddings import StoredPool, float_rows
from clipdre.formats.folders.parts import Parts, digest_of
from clipdre.progress import Progress

ONE_CELL_UP_TO = 32_768
CELLS_PER_ROOT = 2
# Of pairs with cosines of .955 on both sides, 3 cells miss 0.1 % and 2 miss 0.8 %.
PROBES = 3
BLOCK_ROWS = 1024
CENTROIDS, RANKS, FIRST = "centroids", "ranks", "first"
# Vectors of copies differ by rounding alone.
COPY = 1 - 1e-5
Rows = npt.NDArray[np.int64]
Take = Callable[[Modality, Tensor], Tensor]


def find_leaders(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    by_rank: Rows,
    threshold: float,
    parts: Parts,
    engine: Engine,
    of: Sequence[Modality] = tuple(Modality),
) -> Rows:
    """Return for each row of a pool the row that leads its group, itself if it is alone.

    Parameters
    ----------
    by_rank : int64 array of shape (n,)
        The rows in an order, such as that of their key hashes: the first one of a group leads it.
    threshold : float
        Cosine; copies are always alike.
    parts : Parts
        For temporary files of pools of more than one cell: `PROBES` times as much as the vectors.
        What is there of a run that was killed is not done again.
    engine : Engine
    of : sequence of Modality
        What has to be alike: image and caption, or one of them alone.

    Returns
    -------
    int64 array of shape (n,)
    """
    search = _Search(pool.directions, by_rank, min(threshold, COPY), tuple(of))
    leads = np.arange(len(pool))
    with Progress("find copies", 2 * len(pool)) as progress:
        if len(pool) <= ONE_CELL_UP_TO:
            cell = search.one_cell(torch.device(engine.devices[0]))
            leads = first_alike(cell, search.threshold).numpy()
            progress.advance(2 * len(pool))
        else:
            own = engine_for(engine, len(pool))
            for ranks, first in search.in_cells(parts, own, progress):
                leads[ranks] = np.minimum(leads[ranks], first)
    _follow(leads)
    found = np.empty_like(by_rank)
    found[by_rank] = by_rank[leads]
    return found


def inverse(permutation: Rows) -> Rows:
    """Return the permutation that undoes another one."""
    places = np.empty_like(permutation)
    places[permutation] = np.arange(len(permutation))
    return places


@dataclass(frozen=True)
class Cell:
    """Pairs, and the members of a cell to compare them with.

    Attributes
    ----------
    ranks, member_ranks : int64 Tensors of shape (p,) and (m,)
        Those of the members ascend.
    pairs, members : callable
        Return unit vectors of a modality, float32 of shape (k, d), from indices below p, or m.
    of : sequence of Modality
        What has to be alike.
    """

    ranks: Tensor
    member_ranks: Tensor
    pairs: Take
    members: Take
    of: Sequence[Modality] = tuple(Modality)


def first_alike(cell: Cell, threshold: float) -> Tensor:
    """Return the smallest rank of a member that each pair is alike to, or the pair's own.

    Only members of a smaller rank than the pair's count; int64 of shape (p,).
    """
    found, member_ranks = cell.ranks.clone(), cell.member_ranks
    active = torch.arange(len(found))
    for block in torch.split(torch.arange(len(member_ranks)), BLOCK_ROWS):
        # The first hit is the smallest, because members ascend: a pair that has one is done. So
        # thousands of copies of one pair cost little.
        ranks = cell.ranks[active]
        active = active[(found[active] == ranks) & (ranks > member_ranks[block[0]])]
        vectors = cell.members(cell.of[0], block)
        for pairs in torch.split(active, BLOCK_ROWS) if len(active) else ():
            cosines = cell.pairs(cell.of[0], pairs) @ vectors.T
            rows, first = _first_in_block(cell, cosines, pairs, block, threshold)
            found[rows] = first
    return found


def _first_in_block(
    cell: Cell, cosines: Tensor, pairs: Tensor, block: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """Return the pairs that are alike to a member of a block, and the first one's rank.

    `cosines`, of shape (p, m), are those of their images, or of what is looked at first.
    """
    # Few images are alike, so few captions are compared.
    some = torch.nonzero(cosines.amax(dim=1) > threshold).squeeze(1)
    pairs, ranks = pairs[some.cpu()], cell.member_ranks[block]
    hits = (cosines[some] > threshold).cpu() & (ranks[None, :] < cell.ranks[pairs][:, None])
    rows, columns = (torch.nonzero(hits.any(dim=axis)).squeeze(1) for axis in (1, 0))
    if not len(rows):
        return pairs[:0], ranks[:0]
    both = hits[rows[:, None], columns]
    for modality in cell.of[1:]:
        others = cell.pairs(modality, pairs[rows]) @ cell.members(modality, block[columns]).T
        both = both & (others > threshold).cpu()
    hit = both.any(dim=1)
    return pairs[rows[hit]], ranks[columns[both[hit].to(torch.uint8).argmax(dim=1)]]


def _follow(leads: Rows) -> None:
    """Let each index point to where the pointers to smaller indices end."""
    pointing = np.flatnonzero(leads != np.arange(len(leads)))
    while True:
        further = leads[leads[pointing]]
        if np.array_equal(further, leads[pointing]):
            return
        leads[pointing] = further


@dataclass(frozen=True)
class _Search:
    """What is searched for alike pairs, and how; see `find_leaders`."""

    pool: StoredPool
    by_rank: Rows
    threshold: float
    of: tuple[Modality, ...]

    def one_cell(self, device: torch.device) -> Cell:
        """Return the whole pool as a cell."""
        vectors = {m: self.pool.take(m, self.by_rank).to(device) for m in self.of}
        ascending = torch.arange(len(self.by_rank))

        def take(modality: Modality, places: Tensor) -> Tensor:
            return vectors[modality][places]

        return Cell(ascending, ascending, take, take, self.of)

    def in_cells(
        self, parts: Parts, engine: Engine, progress: Progress
    ) -> Iterator[tuple[Rows, Rows]]:
        """Yield ranks of pairs, and the smallest one of a cell that each of them is alike to."""
        parts.share(RANKS, inverse(self.by_rank))
        count = round(CELLS_PER_ROOT * len(self.pool) ** 0.5)
        self._train_centroids(parts, count)
        trained, rows = parts.digest(CENTROIDS), blocks_of(len(self.pool))
        blocks = [
            Visits(f"visits-{n}", f"{identity_of(self.pool, own)} {trained}", len(own), own)
            for n, own in enumerate(rows)
        ]
        run_missing(engine, VisitWork(self.pool, parts, self.of), blocks, parts, progress)
        runs = Runs([parts.file(block.part) for block in blocks], len(rows[0]))
        counts = runs.counts()
        members = counts.reshape(-1, 2)
        made_of = digest_of([block.made_of for block in blocks])
        cells = [
            CellRange(f"alike-{low}", made_of, int(members[low:high, 0].sum()), low, high)
            for low, high in ranges_of(members.sum(axis=1), len(rows[0]))
        ]
        work = CellWork(self.pool.dim, parts, self.of, self.threshold, runs, counts)
        run_missing(engine, work, cells, parts, progress)
        for part in cells:
            found = parts.read(part.part)
            yield found[RANKS], found[FIRST]

    def _train_centroids(self, parts: Parts, count: int) -> None:
        """Train centroids on a sample, and keep them."""
        # faiss takes long to load, and small pools do not need it
        from clipdre.clusters.kmeans import TRAINING_PER_CELL, trained_centroids  # noqa: PLC0415

        made_of = f"{self.of} {identity_of(self.pool, range(len(self.pool)))}"
        if not parts.has(CENTROIDS, made_of):
            rows = self.by_rank[: TRAINING_PER_CELL * count]
            training = concatenated([self.pool.take(m, rows) for m in self.of])
            parts.write(CENTROIDS, {CENTROIDS: trained_centroids(training, count).numpy()}, made_of)


@dataclass(frozen=True)
class Visits(Item):
    """Consecutive rows of a pool."""

    rows: range


@dataclass(frozen=True)
class VisitWork:
    """Sorts blocks into runs by the cells of which each pair is a member, or that it visits."""

    pool: StoredPool
    parts: Parts
    of: tuple[Modality, ...]

    def start(self, device: str, advance: Advance) -> Callable[[Visits], None]:
        """See `clipdre.engines.base.Work`."""
        centroids = torch.from_numpy(self.parts.read(CENTROIDS)[CENTROIDS]).to(device)
        ranks, probes = self.parts.shared(RANKS), min(PROBES, len(centroids))

        def do(block: Visits) -> None:
            rows = np.arange(block.rows.start, block.rows.stop)
            stored = {m: self.pool.stored(m, rows) for m in self.of}
            cells = np.empty((len(rows), probes), np.int64)
            for own in tiles_of(range(len(rows))):
                part = slice(own.start, own.stop)
                tile = concatenated([float_rows(vectors[part]) for vectors in stored.values()])
                cells[part] = nearest(tile.to(device), centroids, probes).cpu().numpy()
                advance(len(tile), 0)
            keys = 2 * cells + (np.arange(probes) > 0)
            order, starts = sorted_by(keys.ravel(), 2 * len(centroids))
            of_block = order // probes
            records = {RANKS: ranks[block.rows.start : block.rows.stop][of_block]}
            vectors = {str(m): vectors[of_block] for m, vectors in stored.items()}
            self.parts.write(block.part, starts | records | vectors, block.made_of)

        return do


@dataclass(frozen=True)
class CellRange(Item):
    """Consecutive cells."""

    low: int
    high: int


@dataclass(frozen=True)
class CellWork:
    """Compares the pairs of cells with the members of the same cell.

    Attributes
    ----------
    counts : int64 array of shape (cells * 2,)
        Members and visitors of each cell.
    """

    dim: int
    parts: Parts
    of: tuple[Modality, ...]
    threshold: float
    runs: Runs
    counts: Rows

    def start(self, device: str, advance: Advance) -> Callable[[CellRange], None]:
        """See `clipdre.engines.base.Work`."""

        def do(cells: CellRange) -> None:
            ranks, firsts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
            with ExitStack() as stack:
                # These files have no names, so nothing is left of them if the run is killed.
                files = {
                    m: stack.enter_context(TemporaryFile(dir=self.parts.path)) for m in self.of
                }
                for cell in self._cells(cells, files, torch.device(device)):
                    first = first_alike(cell, self.threshold)
                    alike = first < cell.ranks
                    ranks.append(cell.ranks[alike].numpy())
                    firsts.append(first[alike].numpy())
                    advance(len(cell.member_ranks), 0)
            found = {RANKS: np.concatenate(ranks), FIRST: np.concatenate(firsts)}
            self.parts.write(cells.part, found, cells.made_of)

        return do

    def _cells(
        self, cells: CellRange, files: Mapping[Modality, IO[bytes]], device: torch.device
    ) -> Iterator[Cell]:
        counts = self.counts[2 * cells.low : 2 * cells.high]
        size, start = int(counts.sum()), 0
        ranks = np.empty(size, np.int64)
        vectors = {
            m: np.memmap(file, np.float16, mode="w+", shape=(size, self.dim))
            for m, file in files.items()
        }
        for records in self.runs.records(self.counts, 2 * cells.low, 2 * cells.high):
            stop = start + len(records[RANKS])
            ranks[start:stop] = records[RANKS]
            for m, own in vectors.items():
                own[start:stop] = records[str(m)]
            start = stop
        ends = np.cumsum(counts).reshape(-1, 2)
        starts = ends[:, 0] - counts[::2]
        for first, (middle, last) in zip(starts, ends, strict=True):
            if middle == first:
                continue
            members = first + np.argsort(ranks[first:middle])
            places = np.concatenate([members, np.arange(middle, last)])

            def take(modality: Modality, k: Tensor, places: Rows = places) -> Tensor:
                return float_rows(vectors[modality][places[k.numpy()]], device)

            of_pairs, of_members = (torch.from_numpy(ranks[rows]) for rows in (places, members))
            yield Cell(of_pairs, of_members, take, take, self.of)


def by_cell(rows: Rows, cells: npt.NDArray[np.integer], count: int) -> Callable[[int], Rows]:
    """Return a function from one of `count` cells to its rows, in the order they are given."""
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(count + 1))
    return lambda cell: rows[order[starts[cell] : starts[cell + 1]]]
