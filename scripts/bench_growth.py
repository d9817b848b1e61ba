"""Growth of time and peak memory of score, filter and reference with the pool.

python scripts/bench_growth.py                                # small pools: three minutes
python scripts/bench_growth.py --large 100000 --large 500000 --large 2000000
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from bench_select import measured, write_scores

from clipdre.truth.embeddings import EmbeddingWorld
from clipdre.truth.pool import write_pool

SHARD = 500
ROWS = 10_000  # rows of a score file, as in shards written by img2dataset
DIM = 64
NEAR = 256  # of each pair, where time would grow faster than memory
CLIPDRE = str(Path(sys.executable).parent / "clipdre")
Command = Callable[[int], list[str]]


def print_growth(title: str, sizes: list[int], command: Command, repeats: int) -> None:
    """Print seconds and peak memory at each size, and both relative to the size before."""
    print(f"\n{title}\n\n| size | seconds | times before | peak GB | times before |")
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


def write_embeddings(folder: Path, pairs: int) -> Path:
    """Write made-up embeddings as clip-retrieval does; return their folder."""
    embeddings = folder / f"embeddings-{pairs}"
    for index in range(-(-pairs // ROWS)):
        rows = min(ROWS, pairs - index * ROWS)
        images, texts = EmbeddingWorld(DIM).draw(rows, np.random.default_rng(index))
        keys = pa.table({"image_path": [f"{index:05d}{row:05d}" for row in range(rows)]})
        for kind in ("img_emb", "text_emb", "metadata"):
            (embeddings / kind).mkdir(parents=True, exist_ok=True)
        np.save(embeddings / "img_emb" / f"img_emb_{index:05d}.npy", images.astype(np.float16))
        np.save(embeddings / "text_emb" / f"text_emb_{index:05d}.npy", texts.astype(np.float16))
        pq.write_table(keys, embeddings / "metadata" / f"metadata_{index:05d}.parquet")
    return embeddings


def score_command(embeddings: Path, scores: Path, reference: str) -> list[str]:
    """Return the command that scores embeddings."""
    command = [CLIPDRE, "score", "--embeddings", str(embeddings), "--overwrite", "-o", str(scores)]
    return [*command, "--logit-scale", "100", "--reference", reference, "--device", "cpu"]


def print_large(sizes: list[int]) -> None:
    """Print the growth of scoring large pools against their own near counterparts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        embeddings = {size: write_embeddings(folder, size) for size in sizes}

        def score(size: int) -> list[str]:
            command = score_command(embeddings[size], folder / f"scores-{size}", "stratified")
            return [*command, "--neighbors", str(NEAR), "--bulk", str(NEAR)]

        title = f"clipdre score --embeddings, pairs (d {DIM}, stratified, {NEAR} near, {NEAR} bulk)"
        print_growth(title, sizes, score, 1)


def main(
    pairs: int = 2000,
    rows: int = 1_000_000,
    checked: int = 25_000,
    repeats: int = 1,
    large: Annotated[list[int] | None, typer.Option(help="Sizes of large pools.")] = None,
) -> None:
    """Print three tables, from the given sizes to eight times the sizes; or that of `large`."""
    if large:
        print_large(large)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = [pairs * 2**n for n in range(4)]
        write_pool(folder / "pool", sizes[-1], seed=0, noise={}, shard_size=SHARD)
        shards = sorted(str(path) for path in (folder / "pool").glob("*.tar"))
        (folder / "score").mkdir()

        def score(size: int) -> list[str]:
            chosen = shards[: size // SHARD]
            out = ["-o", str(folder / "score" / str(size)), "--overwrite"]
            return [CLIPDRE, "score", *chosen, *out, "--model", "clipdre-tiny", "--device", "cpu"]

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
                CLIPDRE,
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
        scores = {size: folder / f"scores-{size}" for size in sizes}
        for size in sizes:
            measured(score_command(write_embeddings(folder, size), scores[size], "sample"))
        title = f"clipdre reference, pairs (d {DIM}, 256 rows checked against exact)"
        print_growth(title, sizes, lambda size: [CLIPDRE, "reference", str(scores[size])], repeats)


if __name__ == "__main__":
    typer.run(main)
