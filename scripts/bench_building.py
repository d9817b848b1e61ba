"""Time, memory and disk of building a reference, from rates that are measured at the true size.

python scripts/bench_building.py                             # five minutes
python scripts/bench_building.py --d 512 --pairs 100000000

Products with centroids, comparisons within a cell and the files of a block are timed as large as
they are in a pool of that size, on one core and this disk; the number of times that each is done
follows from the size. Memory of the command's own process is that of two small pools: what it grows
by for each pair.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from bench_accuracy import stored_pool
from made_up import model_record

from clipdre.clusters.kmeans import ITERATIONS, TRAINING_PER_CELL
from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.cells import nearest
from clipdre.core.density_ratio import unit
from clipdre.engines.local import ProcessPerDevice
from clipdre.estimating import alike, reference
from clipdre.estimating.alike import PROBES, Cell, first_alike
from clipdre.estimating.reference import HELD_OUT, build_reference, leaders_of
from clipdre.estimating.runs import blocks_of
from clipdre.formats.folders.parts import Parts
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.truth.embeddings import EmbeddingWorld

HOUR, GB = 3600.0, 1e9
# Rows that rates are measured with.
ROWS = 1024
SMALL, LESS_SMALL, SMALL_DIM = 140_000, 420_000, 8


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
    work()
    running = False
    thread.join()
    return peak - before


def own_bytes(folder: Path) -> float:
    """Return the bytes for each pair that the command's own process takes at most."""
    engine, model = ProcessPerDevice(("cpu",)), model_record(SMALL_DIM)
    config = EstimateConfig(ReferenceMethod.STRATIFIED)
    peaks = []
    for pairs in (SMALL, LESS_SMALL):
        pool = stored_pool(EmbeddingWorld(SMALL_DIM, 0.4), pairs, folder / f"{pairs}")
        hashes = np.concatenate([file.hashes() for file in pool.shards])
        target = ReferenceFolder(folder / f"reference-{pairs}")

        def build() -> None:
            leaders = leaders_of(pool, hashes, model, config.alike, target, engine)  # noqa: B023
            build_reference(pool, hashes, leaders, model, config, target, engine)  # noqa: B023

        peaks.append(peak_of(build))
        print(f"{pairs:,} pairs: {peaks[-1] / 1e6:.0f} MB more in this process", flush=True)
    return (peaks[1] - peaks[0]) / (LESS_SMALL - SMALL)


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
