"""What Ray costs: memory of the driver over the number of shards, and time against processes.

python scripts/bench_ray.py                                  # 10,000 shards
python scripts/bench_ray.py --shards 1000 --only doctor --pairs 1000 --repeats 3

The cluster is two nodes of one CPU each on this machine; the other side is `--device cpu,cpu`, or
two threads where there is no model.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from bench_select import used

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the cluster of the tests

from clipdre.truth.pool import write_pool
from tests.clusters_of_ray import cluster_of

FEW, SHARDS = 100, 40
MODEL = ["--model", "clipdre-tiny", "--batch-size", "64"]
COMMANDS = ("score", "doctor", "filter")
# Small shards are encoded together; here each is an item, as large ones are.
ALONE = """
import sys
from clipdre.cli.main import main
if __name__ == "__main__":
    if sys.argv[1] == "score":
        from clipdre.encoding import jobs
        jobs.TOGETHER = 0
    main()
"""


def run(script: Path, *arguments: object) -> tuple[float, float]:
    """Run a command; return its seconds and the peak resident MB of its largest process."""
    seconds, usage = used([sys.executable, str(script), *map(str, arguments)])
    return seconds, usage.ru_maxrss / 1024


def arguments(name: str, folder: Path, count: int, ray: list[str]) -> list[object]:
    """Return the arguments of a command that reads, or for `filter` writes, so many shards."""
    pool = folder / f"pool-{count}"
    device = ["--device", "cpu", *ray] if ray else ["--device", "cpu,cpu"]
    return {
        "score": ["score", pool, "-o", folder / "out", *MODEL, *device],
        "doctor": ["doctor", pool, *(ray or ["--workers", 2])],
        "filter": [
            "filter",
            f"{pool}-scores",
            "--all",
            "--shard-size",
            1,
            "-o",
            folder / "out",
            *ray,
        ],
    }[name]


def compare_memory(folder: Path, ray: list[str], shards: int, commands: Sequence[str]) -> None:
    """Print the memory of commands on a few shards and on many, of one pair each."""
    script, counts = folder / "alone.py", (FEW, shards)
    for count in counts:
        write_pool(folder / f"pool-{count}", count, seed=1, noise={}, shard_size=1)
        if "filter" in commands:
            write_pool(folder / f"few-{count}", count, seed=1, noise={}, shard_size=count // 10)
            scores = folder / f"pool-{count}-scores"
            run(script, "score", folder / f"few-{count}", "-o", scores, *MODEL, "--device", "cpu")
    print(f"| command | engine | MB, {FEW} shards | MB, {shards:,} shards | MB more |")
    print("|---|---|---|---|---|")
    for name in commands:
        for engine, options in (("local", []), ("ray", ray)):
            found = []
            for count in counts:
                found.append(run(script, *arguments(name, folder, count, options))[1])
                shutil.rmtree(folder / "out", ignore_errors=True)
            few, many = found
            print(
                f"| `{name}` | {engine} | {few:.0f} | {many:.0f} | {many - few:.0f} |", flush=True
            )


def compare_time(folder: Path, ray: list[str], pairs: int, repeats: int) -> None:
    """Print the seconds of scoring with two workers of Ray, and with two processes.

    A run of few pairs in as many shards tells what starting costs.
    """
    sizes = {"start": SHARDS, "all": pairs}
    for name, size in sizes.items():
        write_pool(folder / name, size, seed=2, noise={}, shard_size=-(-size // SHARDS))
    sides: dict[str, list[object]] = {
        "processes": ["--device", "cpu,cpu", "--workers", 2],
        "Ray": ["--device", "cpu", *ray],
    }
    seconds: dict[tuple[str, str], list[float]] = {(n, s): [] for n in sides for s in sizes}
    for _ in range(repeats):
        for (name, size), own in seconds.items():
            out = folder / "scores"
            command = ["score", folder / size, "-o", out, *MODEL, *sides[name]]
            own.append(run(folder / "alone.py", *command)[0])
            shutil.rmtree(out)
    medians = {which: statistics.median(own) for which, own in seconds.items()}
    print(f"\n`score`, {pairs:,} pairs in {SHARDS} shards, two workers, {repeats} runs each:\n")
    print("| engine | seconds | times processes | seconds without starting | times processes |")
    print("|---|---|---|---|---|")
    whole, start = medians["processes", "all"], medians["processes", "start"]
    for name in sides:
        own, begin = medians[name, "all"], medians[name, "start"]
        ratios = own / whole, (own - begin) / (whole - start)
        print(f"| {name} | {own:.1f} | {ratios[0]:.2f} | {own - begin:.1f} | {ratios[1]:.2f} |")


def main(
    shards: Annotated[int, typer.Option(help="Shards of one pair each; 0 skips memory.")] = 10_000,
    pairs: Annotated[int, typer.Option(help="Pairs that are scored for time.")] = 8_000,
    repeats: Annotated[int, typer.Option(help="Runs of each engine; 0 skips time.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Command to measure; repeat it.")] = None,
) -> None:
    """Print both tables."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for a worker with one CPU
    with tempfile.TemporaryDirectory() as temporary, cluster_of(2) as cluster:
        folder = Path(temporary)
        (folder / "alone.py").write_text(ALONE)
        ray = ["--engine", "ray", "--address", cluster.address]
        if shards:
            compare_memory(folder, ray, shards, only or COMMANDS)
        if repeats:
            compare_time(folder, ray, pairs, repeats)


if __name__ == "__main__":
    typer.run(main)
