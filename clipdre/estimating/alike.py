"""Pairs that are alike on both sides: copies, and what is as good as one.

Two pairs are alike if the cosines of their images and of their captions both exceed a threshold.
Ranked by key hash, each pair points to the smallest pair it is alike to; pairs that lead to the
same one are a group. So a group does not depend on the order of the shards, on tiles or devices.

Alike pairs are near as concatenated vectors too. Large pools are divided into cells of those, and a
pair is compared with the members of the few cells nearest to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.modality import Modality
from clipdre.core.spherical import concatenated
from clipdre.formats.folders.embeddings import Half, StoredPool, float_rows
from clipdre.progress import Progress

ONE_CELL_UP_TO = 32_768
CELLS_PER_ROOT = 2
# Of pairs with cosines of .955 on both sides, 3 cells miss 0.1 % and 2 miss 0.8 %.
PROBES = 3
TILE_ROWS = 2048
BLOCK_ROWS = 1024
# Vectors of copies differ by rounding alone.
COPY = 1 - 1e-5
Rows = npt.NDArray[np.int64]
Take = Callable[[Modality, Tensor], Tensor]


def find_leaders(  # noqa: PLR0913 (a pool, how to read it, and where to)
    pool: StoredPool,
    ranks: Rows,
    threshold: float,
    scratch: Path,
    device: torch.device,
    of: Sequence[Modality] = tuple(Modality),
) -> Rows:
    """Return for each row of a pool the row that leads its group, itself if it is alone.

    Parameters
    ----------
    ranks : int64 array of shape (n,)
        A permutation that orders the rows, such as the order of their key hashes.
    threshold : float
        Cosine; copies are always alike.
    scratch : Path
        Folder for temporary files: `2 d` bytes per pair and modality for a pool of more than one
        cell.
    of : sequence of Modality
        What has to be alike: image and caption, or one of them alone.

    Returns
    -------
    int64 array of shape (n,)
    """
    pool, threshold = pool.directions, min(threshold, COPY)
    by_rank, smallest = inverse(ranks), torch.from_numpy(ranks.copy())
    with Progress("find copies", len(pool)) as progress:
        for cell in _cells(pool, by_rank, ranks, scratch, device, of):
            smallest.scatter_reduce_(0, cell.rows, first_alike(cell, threshold), "amin")
            progress.advance(len(cell.member_ranks))
    leads = _followed(smallest[torch.from_numpy(by_rank)])
    found: Rows = by_rank[leads.numpy()[ranks]]
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
    rows : int64 Tensor of shape (p,)
        Where the pairs are in their pool.
    ranks, member_ranks : int64 Tensors of shape (p,) and (m,)
        Those of the members ascend.
    pairs, members : callable
        Return unit vectors of a modality, float32 of shape (k, d), from indices below p, or m.
    of : sequence of Modality
        What has to be alike.
    """

    rows: Tensor
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


def _followed(leads: Tensor) -> Tensor:
    """Follow pointers to smaller indices to their ends."""
    while True:
        further = leads[leads]
        if torch.equal(further, leads):
            return leads
        leads = further


def _cells(  # noqa: PLR0913 (as above)
    pool: StoredPool,
    by_rank: Rows,
    ranks: Rows,
    scratch: Path,
    device: torch.device,
    of: Sequence[Modality],
) -> Iterator[Cell]:
    if len(pool) <= ONE_CELL_UP_TO:
        yield _one_cell(pool, by_rank, device, of)
        return
    with ExitStack() as stack:
        # These files have no names, so nothing is left of them if the run is killed.
        files = {m: stack.enter_context(TemporaryFile(dir=scratch)) for m in of}
        yield from _many_cells(pool, by_rank, ranks, files, device)


def _one_cell(
    pool: StoredPool, by_rank: Rows, device: torch.device, of: Sequence[Modality]
) -> Cell:
    vectors = {modality: pool.take(modality, by_rank).to(device) for modality in of}
    ascending = torch.arange(len(by_rank))

    def take(modality: Modality, places: Tensor) -> Tensor:
        return vectors[modality][places]

    return Cell(torch.from_numpy(by_rank), ascending, ascending, take, take, of)


def _many_cells(
    pool: StoredPool,
    by_rank: Rows,
    ranks: Rows,
    files: Mapping[Modality, IO[bytes]],
    device: torch.device,
) -> Iterator[Cell]:
    # faiss takes long to load, and small pools do not need it
    from clipdre.clusters.kmeans import TRAINING_PER_CELL, cluster, nearest  # noqa: PLC0415

    count = round(CELLS_PER_ROOT * len(pool) ** 0.5)
    training = concatenated([pool.take(m, by_rank[: TRAINING_PER_CELL * count]) for m in files])

    def tiles() -> Iterator[tuple[int, Tensor]]:
        for tiles in zip(*(pool.tiles(modality, TILE_ROWS) for modality in files), strict=True):
            yield tiles[0][0], concatenated([vectors for _, vectors in tiles])

    cells, assigned = cluster(training, count, len(pool), tiles)
    probes = np.empty((len(pool), PROBES), np.int32)
    for start, tile in tiles():
        probes[start : start + len(tile)] = nearest(tile, cells.centroids, PROBES).numpy()
    members = by_cell(by_rank, assigned[by_rank], count)
    visitors = _visitors(probes, assigned, count)
    place = inverse(np.concatenate([members(cell) for cell in range(count)]))
    vectors = {m: _sorted(pool, m, place, file) for m, file in files.items()}
    for cell in range(count):
        own = members(cell)
        if len(own):
            both = np.concatenate([own, visitors(cell)])
            places = place[both]

            def take(modality: Modality, k: Tensor, places: Rows = places) -> Tensor:
                return float_rows(vectors[modality][places[k.numpy()]], device)

            of_both = torch.from_numpy(ranks[both])
            yield Cell(
                torch.from_numpy(both), of_both, of_both[: len(own)], take, take, tuple(files)
            )


def _sorted(pool: StoredPool, modality: Modality, place: Rows, file: IO[bytes]) -> Half:
    """Write the pool's vectors to `file`, each at its place; return them mapped."""
    vectors = np.memmap(file, np.float16, mode="w+", shape=(len(pool), pool.dim))
    for start, tile in pool.tiles(modality, TILE_ROWS):
        vectors[place[start : start + len(tile)]] = tile.numpy().astype(np.float16)
    return vectors


def _visitors(
    probes: npt.NDArray[np.int32], assigned: npt.NDArray[np.int64], count: int
) -> Callable[[int], Rows]:
    """Return a function from a cell to the rows that probe it without being its members."""
    others = probes != assigned[:, None]
    return by_cell(np.nonzero(others)[0], probes[others], count)


def by_cell(rows: Rows, cells: npt.NDArray[np.integer], count: int) -> Callable[[int], Rows]:
    """Return a function from one of `count` cells to its rows, in the order they are given."""
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], np.arange(count + 1))
    return lambda cell: rows[order[starts[cell] : starts[cell + 1]]]
