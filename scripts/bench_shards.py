"""What small shards cost: pairs in shards of one against one shard of them all; and a short run.

python scripts/bench_shards.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
from bench_select import used

from clipdre.truth.pool import write_pool


def main(
    pairs: Annotated[int, typer.Option(help="Pairs, and shards of one.")] = 600,
    short: Annotated[int, typer.Option(help="Pairs of the short run.")] = 1000,
    repeats: Annotated[int, typer.Option(help="Interleaved runs; the table has the medians.")] = 3,
) -> None:
    """Print one table: seconds of whole runs with the embedded model, start-up included."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pools = {
            f"{pairs} pairs in one shard": (pairs, pairs),
            f"{pairs} pairs in {pairs} shards": (pairs, 1),
            f"{short} pairs in one shard": (short, short),
        }
        for n, (count, size) in enumerate(pools.values()):
            options = {"seed": 0, "noise": {}, "shard_size": size}
            # spawned, so that torch stays out of this process
            writer = get_context("spawn").Process(
                target=write_pool, args=(folder / str(n), count), kwargs=options
            )
            writer.start()
            writer.join()
        clipdre = str(Path(sys.executable).parent / "clipdre")
        options = ["--model", "clipdre-tiny", "--device", "cpu", "--overwrite"]
        runs = []
        for _ in range(repeats):
            row = []
            for n in range(len(pools)):
                out = ["-o", str(folder / f"scores-{n}")]
                seconds, usage = used([clipdre, "score", str(folder / str(n)), *out, *options])
                row.append((seconds, usage.ru_utime + usage.ru_stime))
            runs.append(row)
    print("| | seconds | of processors | times one shard |\n|---|---|---|---|")
    medians = [
        [statistics.median(run[n][kind] for run in runs) for kind in range(2)]
        for n in range(len(pools))
    ]
    for name, (seconds, busy) in zip(pools, medians, strict=True):
        print(f"| {name} | {seconds:.1f} | {busy:.1f} | {busy / medians[0][1]:.2f} |")


if __name__ == "__main__":
    typer.run(main)
