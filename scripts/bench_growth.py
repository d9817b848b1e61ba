"""Growth of time and peak memory of score, filter and reference as the pool doubles.

python scripts/bench_growth.py                             # three minutes
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import typer
from bench_select import measured, write_scores

from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.truth.embeddings import EmbeddingWorld
from clipdre.truth.pool import write_pool

SHARD = 500
ROWS = 10_000  # rows of a score file, as in shards written by img2dataset
DIM = 64
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


def scored_embeddings(clipdre: str, folder: Path, pairs: int) -> Path:
    """Score made-up embeddings against a uniform sample, the fastest way; return the folder."""
    files = -(-pairs // ROWS)
    for index in range(files):
        rows = min(ROWS, pairs - index * ROWS)
        images, texts = EmbeddingWorld(DIM).draw(rows, np.random.default_rng(index))
        samples = pa.table({"key": [f"{index:05d}{row:05d}" for row in range(rows)]})
        target = EmbeddingFiles(folder / f"embeddings-{pairs}", index, files)
        target.write(images.astype(np.float16), texts.astype(np.float16), samples, {})
    scores = folder / f"scores-{pairs}"
    command = [clipdre, "score", "--embeddings", str(folder / f"embeddings-{pairs}")]
    command += ["--logit-scale", "100", "--reference", "sample", "--device", "cpu"]
    measured([*command, "-o", str(scores)])
    return scores


def main(pairs: int = 2000, rows: int = 1_000_000, checked: int = 25_000, repeats: int = 1) -> None:
    """Print three tables, from the given sizes to eight times the sizes."""
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
        sizes = [checked * 2**n for n in range(4)]
        scores = {size: scored_embeddings(clipdre, folder, size) for size in sizes}
        title = f"clipdre reference, pairs (d {DIM}, 256 rows checked against exact)"
        print_growth(title, sizes, lambda size: [clipdre, "reference", str(scores[size])], repeats)


if __name__ == "__main__":
    typer.run(main)
