"""Time, memory and disk of building a reference, from rates that are measured at the true size.

python scripts/bench_building.py                             # five minutes
python scripts/bench_building.py --d 512 --pairs 100000000

Products with centroids, comparisons within a cell and the files of a block are timed as large as
they are in a pool of that size, on one core and this disk; the number of times that each is done
follows from the size. Memory of the command's own process is that of its steps on ten million rows.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer

from clipdre.clusters.kmeans import ITERATIONS, TRAINING_PER_CELL
from clipdre.core.cells import nearest
from clipdre.core.density_ratio import unit
from clipdre.engines.local import InProcess
from clipdre.estimating import alike, reference
from clipdre.estimating.alike import PROBES, Cell, find_leaders, first_alike
from clipdre.estimating.draws import smallest
from clipdre.estimating.groups import Groups, half_of
from clipdre.estimating.reference import HELD_OUT
from clipdre.estimating.runs import blocks_of
from clipdre.formats.folders.parts import Parts

HOUR, GB = 3600.0, 1e9
# Rows that rates are measured with.
ROWS = 1024
ROWS_IN_MEMORY = 10_000_000


@dataclass(frozen=True)
class Size:
    """A pool, and what follows from its size."""

    pairs: float
    d: int

    @property
    def cells(self) -> int:
        """Cells of the reference, of each modality."""
        return round(reference.CELLS_PER_ROOT * self.pairs**0.5)

    @property
    def alike_cells(self) -> int:
        """Cells in which copies are looked for."""
        return round(alike.CELLS_PER_ROOT * self.pairs**0.5)

    @property
    def block(self) -> int:
        """Rows of a block."""
        return len(blocks_of(int(self.pairs))[0])


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def rows_of(count: int, d: int, seed: int = 0) -> torch.Tensor:
    """Draw unit vectors."""
    return unit(torch.randn(count, d, generator=torch.Generator().manual_seed(seed)))


def assigning(cells: int, d: int, probes: int) -> float:
    """Return the seconds that it takes to find the nearest cells of a row."""
    tile, centroids = rows_of(ROWS, d), rows_of(cells, d, 1)
    return seconds(lambda: nearest(tile, centroids, probes)) / ROWS


def comparing(size: Size) -> float:
    """Return the seconds that it takes to compare a row with the members of its cells."""
    members = round(size.pairs / size.alike_cells)
    vectors = rows_of(members + ROWS, size.d)
    ranks = torch.arange(len(vectors))  # every member comes before these pairs, none is a copy
    cell = Cell(
        ranks[members:],
        ranks[:members],
        lambda _, places: vectors[members + places],
        lambda _, places: vectors[places],
    )
    return PROBES * seconds(lambda: first_alike(cell, 0.99)) / ROWS


def measuring(size: Size) -> float:
    """Return the seconds that it takes to add a row to its cell, and to the mass of the cell."""
    tile, queries = rows_of(ROWS, size.d), rows_of(HELD_OUT, size.d, 1)
    return seconds(lambda: (tile.double().sum(dim=0), (queries @ tile.T).logsumexp(1))) / ROWS


def moving(size: Size, folder: Path) -> float:
    """Return the wall seconds that it takes to write a GB as runs, and to read it again."""
    parts, rows = Parts(folder, ""), min(size.block, 32_768)
    vectors = rows_of(rows, size.d).half().numpy()
    started = time.perf_counter()
    for n in range(8):
        parts.write(f"{n}", {"vectors": vectors}, "")
    for n in range(8):
        parts.read(f"{n}")["vectors"].sum()
    return (time.perf_counter() - started) / (8 * vectors.nbytes) * GB


def anonymous() -> int:
    """Return the bytes of this process that are not those of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def peak_of(work: Callable[[], object]) -> int:
    """Return by how many bytes the memory of this process grows meanwhile."""
    before, peak, running = anonymous(), 0, True

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, anonymous())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        running = False
        thread.join()
    return peak - before


class Blank:
    """A pool of which nobody reads a vector."""

    @property
    def directions(self) -> Blank:
        """See `StoredPool`."""
        return self

    def __len__(self) -> int:
        return ROWS_IN_MEMORY


def own_bytes(folder: Path) -> float:
    """Return the bytes for each pair that the command's own process takes at most.

    Only what it does itself is done; workers are said to find that a tenth of the pairs are copies.
    """
    hashes = np.random.default_rng(0).integers(2**64, size=ROWS_IN_MEMORY, dtype=np.uint64)
    found: list[np.ndarray] = []

    def in_cells(search: Any, parts: Parts, *_: object) -> Iterator[tuple[np.ndarray, ...]]:
        parts.share("ranks", alike.inverse(search.by_rank))
        copies = np.arange(ROWS_IN_MEMORY // 10, ROWS_IN_MEMORY // 5)
        yield copies, copies - 1000

    def lead() -> None:
        order = np.argsort(hashes, kind="stable")
        found.append(find_leaders(Blank(), order, 0.95, Parts(folder, ""), InProcess("cpu")))  # type: ignore[arg-type]

    def divide() -> None:
        halves = half_of(hashes)
        own = [np.flatnonzero(halves == half) for half in range(2)]
        found.append(np.concatenate([rows[smallest(hashes[rows], 1024)] for rows in own]))

    with patch.object(alike._Search, "in_cells", in_cells):
        peaks = {"leaders": 8 + peak_of(lead) / ROWS_IN_MEMORY}
    group = peak_of(lambda: found.append(Groups.led_by(found[0], half_of(hashes)).of_rows))
    peaks["groups"] = 16 + group / ROWS_IN_MEMORY
    peaks["bulk"] = 24 + peak_of(divide) / ROWS_IN_MEMORY
    shown = ", ".join(f"{name} {value:.0f}" for name, value in peaks.items())
    print(f"bytes of the command's process for each pair, at most: {shown}", flush=True)
    return max(peaks.values())


def table(size: Size, own: float, folder: Path) -> None:
    """Print what it takes to build the reference of one pool."""
    d, pairs = size.d, size.pairs
    one, several = assigning(size.cells, d, 1), assigning(size.alike_cells, 2 * d, PROBES)
    gb = moving(size, folder / f"{pairs:.0e}")
    copies_gb, pool_gb = PROBES * 4 * d * pairs / GB, 4 * d * pairs / GB
    per_cell = ITERATIONS * TRAINING_PER_CELL
    rows = [
        ("copies: centroids", "command", per_cell * size.alike_cells * several),
        ("copies: cells of each pair", "engine", pairs * several),
        ("copies: comparing", "engine", pairs * comparing(size)),
        ("copies: files", "engine", copies_gb * gb),
        ("centroids, both modalities", "command", 2 * per_cell * size.cells * one),
        ("cells of each image and caption", "engine", 2 * pairs * one),
        ("mass of cells", "engine", 2 * pairs * measuring(size)),
        ("files", "engine", 2 * pool_gb * gb),
    ]
    print(f"\n{pairs:,.0f} pairs, d {d}, hours of one core of this machine\n")
    print("| step | where | hours |\n|---|---|---|")
    for name, where, spent in rows:
        print(f"| {name} | {where} | {spent / HOUR:,.1f} |", flush=True)
    sums = {w: sum(spent for _, where, spent in rows if where == w) for w in ("command", "engine")}
    print(
        f"| all | command, engine | {sums['command'] / HOUR:,.1f}, {sums['engine'] / HOUR:,.0f} |"
    )
    sample = 2.5 * 4 * TRAINING_PER_CELL * max(size.cells * d, size.alike_cells * 2 * d)
    block = (1 + PROBES) * size.block * 4 * d
    centroids = 4 * d * max(2 * size.cells, 2 * size.alike_cells)
    print(
        f"\nmemory: command {(own * pairs + sample) / GB:,.1f} GB ({own:.0f} bytes a pair, and ",
        end="",
    )
    print(f"{sample / GB:,.1f} GB of samples), worker {(block + centroids) / GB:,.1f} GB")
    print(f"disk: {pool_gb:,.0f} GB of vectors, and {copies_gb:,.0f} GB for a time")


def main(
    d: int = 768,
    pairs: Annotated[list[float] | None, typer.Option(help="Sizes of pools.")] = None,
) -> None:
    """Print a table for each size."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        own = own_bytes(Path(temporary))
        for size in pairs or [1e8, 1e9]:
            table(Size(size, d), own, Path(temporary))


if __name__ == "__main__":
    typer.run(main)
