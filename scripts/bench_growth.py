"""Growth of time and peak memory of score and filter as the pool doubles, at four sizes each.

python scripts/bench_growth.py                             # two minutes
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import typer
from bench_select import measured, write_scores

from clipdre.truth.pool import write_pool

SHARD = 500
ROWS = 10_000  # rows of a score file, as in shards written by img2dataset
Command = Callable[[int], list[str]]


def print_growth(title: str, sizes: list[int], command: Command, repeats: int) -> None:
    """Print seconds and peak memory at each size, and both relative to half the size."""
    print(f"\n{title}\n\n| size | seconds | times half | peak GB | times half |")
    print("|---|---|---|---|---|")
    before: tuple[float, float] | None = None
    for size in sizes:
        runs = [measured(command(size)) for _ in range(repeats)]
        seconds, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        growth = (
            [f"{now / was:.2f}" for now, was in zip((seconds, peak), before, strict=True)]
            if before
            else ["", ""]
        )
        print(f"| {size:,} | {seconds:.2f} | {growth[0]} | {peak:.3f} | {growth[1]} |", flush=True)
        before = seconds, peak


def main(pairs: int = 2000, rows: int = 1_000_000, repeats: int = 1) -> None:
    """Print two tables, from the given sizes to eight times the sizes."""
    clipdre = str(Path(sys.executable).parent / "clipdre")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = [pairs * 2**n for n in range(4)]
        write_pool(folder / "pool", sizes[-1], seed=0, noise={}, shard_size=SHARD)
        shards = sorted(str(path) for path in (folder / "pool").glob("*.tar"))
        (folder / "score").mkdir()

        def score(size: int) -> list[str]:
            chosen = shards[: size // SHARD]
            out = ["-o", str(folder / "score" / str(size)), "--overwrite"]
            return [clipdre, "score", *chosen, *out, "--model", "clipdre-tiny", "--device", "cpu"]

        print_growth("clipdre score, pairs (clipdre-tiny, exact)", sizes, score, repeats)
        sizes = [rows * 2**n for n in range(4)]
        for size in sizes:
            target = folder / f"rows-{size}"
            writer = get_context("spawn").Process(
                target=write_scores, args=(target, size, size // ROWS)
            )
            writer.start()
            writer.join()

        def select(size: int) -> list[str]:
            out = ["-o", f"{temporary}/kept.txt", "--format", "keys", "--overwrite"]
            return [
                clipdre,
                "filter",
                f"{temporary}/rows-{size}",
                "--by",
                "kl_text",
                "--top",
                "25%",
                *out,
            ]

        print_growth("clipdre filter --by kl_text --top 25%, rows", sizes, select, 3 * repeats)


if __name__ == "__main__":
    typer.run(main)
