"""Speed of training samples from a quarter of a pool, against webdataset on an emitted copy.

python scripts/bench_training.py                           # a minute
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import fsspec
import typer
import webdataset as wds
from bench_emit import made_selection

from clipdre import training
from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.subset import Subset
from clipdre.formats.tars import spans
from clipdre.selecting.select import Selection

BUFFER = 1000


def samples_per_second(data: Any, workers: int) -> float:
    """Read one epoch, in this process or through a loader."""
    found = data if not workers else wds.WebLoader(data, batch_size=None, num_workers=workers)
    started = time.perf_counter()
    count = sum(1 for _ in found)
    return count / (time.perf_counter() - started)


def bytes_of_reads() -> int:
    """Return how many bytes this process has asked of files so far."""
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("rchar")).split()[1])


def local_bytes(data: Any) -> int:
    """Return the bytes that an epoch reads from local tars."""
    before = bytes_of_reads()
    samples_per_second(data, 0)
    return bytes_of_reads() - before


def remote_bytes(selection: Selection, pool: Path) -> tuple[int, int]:
    """Return the bytes that an epoch asks of a store in memory, and in how many requests."""
    store, asked, plain = fsspec.filesystem("memory"), [], spans.read_ranges
    for path in pool.glob("*.tar"):
        store.pipe(f"/pool/{path.name}", path.read_bytes())

    def counted(url: str, runs: Sequence[tuple[int, int]], public: bool = False) -> list[bytes]:
        asked.extend(nbytes for _, nbytes in runs)
        return plain(url, runs, public)

    spans.read_ranges = counted
    try:
        far = [f"memory://pool/{path.name}" for path in sorted(pool.glob("*.tar"))]
        samples_per_second(training.dataset(selection, shards=far), 0)
    finally:
        spans.read_ranges = plain
    return sum(asked), len(asked)


def main(
    samples: Annotated[int, typer.Option(help="Samples in the pool.")] = 20_000,
    repeats: Annotated[int, typer.Option(help="Interleaved runs; the table has the medians.")] = 7,
) -> None:
    """Print two tables: samples per second of each way, and bytes read for the kept ones."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        selection = made_selection(folder, samples)
        write_tar_folder(Subset(selection), folder / "kept", EmitConfig(shard_size=500))
        tars = sorted(map(str, (folder / "kept").glob("*.tar")))
        kept = sum(selection.table(["nbytes"])["nbytes"].to_pylist())
        started = time.perf_counter()
        here = training.dataset(selection, columns=["score"], shuffle=BUFFER)
        opened = time.perf_counter() - started
        copy = wds.WebDataset(tars, shardshuffle=len(tars)).shuffle(BUFFER)
        ways: dict[str, Callable[[], float]] = {
            f"{name}, {workers or 'no'} workers": lambda data=data, workers=workers: (
                samples_per_second(data, workers)
            )
            for workers in (0, 2)
            for name, data in (("webdataset on a copy", copy), ("clipdre on the pool", here))
        }
        runs = [{name: way() for name, way in ways.items()} for _ in range(repeats)]
        print(f"{len(selection):,} of {samples:,} samples, {kept / 1e6:.0f} MB; ", end="")
        print(f"selecting, checking and indexing took {opened:.2f} s\n")
        print("| | samples/s | times webdataset's |\n|---|---|---|")
        for n, name in enumerate(ways):
            base = list(ways)[n - n % 2]
            ratio = median(run[name] / run[base] for run in runs)
            print(f"| {name} | {median(run[name] for run in runs):,.0f} | {ratio:.2f} |")
        near, (far, requests) = local_bytes(here), remote_bytes(selection, folder / "pool")
        print("\n| tars | bytes read / kept | requests |\n|---|---|---|")
        print(f"| local | {near / kept:.3f} | |")
        print(f"| remote | {far / kept:.3f} | {requests:,} |")
        print(f"\n{os.cpu_count()} cores")


if __name__ == "__main__":
    typer.run(main)
