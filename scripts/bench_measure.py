"""Time and memory of the scorers that read vectors, and how far they are from bare arithmetic.

python scripts/bench_measure.py                   # a million rows of 512 dimensions, 3 GB of disk
python scripts/bench_measure.py --rows 100000 --only conformity --only lemon
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from bench_select import used, write_scores

# Rows of one kind; vectors of a kind have a cosine of about 0.5 with each other.
KINDS = 1000
TARGET_ROWS, CANDIDATES = 10_000, 8


class Bare(NamedTuple):
    """What a scorer cannot do without, for n rows of d dimensions in k clusters.

    Attributes
    ----------
    options : list of str
    products : callable
        Number of multiplications of matrix products.
    passes : int
        How often each vector has to be read, as float32 from stored float16.
    """

    options: list[str]
    products: Callable[[int, int, int], float]
    passes: int


SCORERS = {
    "conformity": Bare([], lambda n, d, _: 4 * n * d, 4),
    "whitened": Bare([], lambda n, d, _: 4 * n * d * d, 4),
    "normsim": Bare(["--target", "TARGET"], lambda n, d, _: n * d * TARGET_ROWS, 1),
    "normsim-dynamic": Bare(["--rounds", "5"], lambda n, d, _: 12 * n * d * d, 12),
    "clusters": Bare([], lambda n, d, k: n * d * k, 1),
    "density-pruning": Bare(["--keep", "0.5"], lambda n, d, k: n * d * k, 1),
    "semantic-duplicates": Bare([], lambda n, d, k: n * d * k + n * n / k * d, 2),
    "image-based": Bare(["--target", "TARGET"], lambda n, d, k: n * d * k, 1),
    "clipcov": Bare([], lambda n, d, k: n * d * k, 5),
    "image-duplicates": Bare([], lambda n, d, k: n * d * k + n * n / k * d, 2),
    "lemon": Bare([], lambda n, d, k: 2 * (n * d * k + CANDIDATES * n * n / k * d), 4),
}


def write_pool(folder: Path, rows: int, d: int) -> None:
    """Write scores, and vectors around the centres of kinds; and a target beside them."""
    from clipdre.core.modality import Modality  # noqa: PLC0415
    from clipdre.formats.folders.embeddings import embedding_files  # noqa: PLC0415
    from clipdre.formats.folders.folder import ScoreFolder  # noqa: PLC0415
    from clipdre.formats.folders.manifest import read_manifest  # noqa: PLC0415

    write_scores(folder, rows, d=d)
    centres = np.random.default_rng(0).standard_normal((KINDS, d), np.float32)
    shards = read_manifest(folder).shards
    files = embedding_files(ScoreFolder(folder).embeddings, len(shards))
    for n, (shard, own) in enumerate(zip(shards, files, strict=True)):
        rng = np.random.default_rng(n)
        kinds = rng.integers(KINDS, size=shard.rows)
        for modality in Modality:
            vectors = centres[kinds] + rng.standard_normal((shard.rows, d), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            path = own.array(modality)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, vectors.astype(np.float16))
    target = np.random.default_rng(1).standard_normal((TARGET_ROWS, d), np.float32)
    np.save(folder.parent / "target.npy", target)


def core_seconds(usage: resource.struct_rusage) -> float:
    """Return the seconds of all cores."""
    return usage.ru_utime + usage.ru_stime


def bare_rates(d: int) -> tuple[float, float]:
    """Return what one core does in a second: multiplications of a product, and values read.

    The product is of float32 matrices; values are read as float32 from float16.
    """
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    left, right = torch.randn(4096, d), torch.randn(d, 4096)
    stored = torch.randn(16_384, d).half()
    product = min(_seconds(lambda: left @ right) for _ in range(5))
    read = min(_seconds(stored.float) for _ in range(5))
    return 4096 * 4096 * d / product, stored.numel() / read


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(
    rows: int = 1_000_000,
    dim: int = 512,
    only: Annotated[list[str] | None, typer.Option(help="Scorer to run; repeat it.")] = None,
) -> None:
    """Print a table: each scorer is a process of its own."""
    clipdre = str(Path(sys.executable).parent / "clipdre")
    rate, reading = bare_rates(dim)
    clusters = round(rows**0.5)
    print(
        f"{rows:,} rows of {dim} dimensions; a core does {rate / 1e9:.0f} billion multiplications "
        f"and reads {reading / 1e9:.1f} billion values in a second"
    )
    print("| scorer | core seconds | bare | times bare | peak MB | bytes a row |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scores"
        small = Path(temporary) / "small" / "scores"
        for place, size in ((folder, rows), (small, 1000)):
            writer = get_context("spawn").Process(target=write_pool, args=(place, size, dim))
            writer.start()
            writer.join()
        # What every run costs, whatever the number of rows.
        _, start = used([clipdre, "measure", str(small), "conformity", "--device", "cpu"])
        for name in only or SCORERS:
            options, products, passes = SCORERS[name]
            options = [o.replace("TARGET", f"{temporary}/target.npy") for o in options]
            _, found = used([clipdre, "measure", str(folder), name, "--device", "cpu", *options])
            bare = products(rows, dim, clusters) / rate + passes * rows * dim / reading
            seconds = core_seconds(found) - core_seconds(start)
            figures = [
                f"{seconds:.0f}",
                f"{bare:.0f}",
                f"{seconds / bare:.1f}",
                f"{1024 * found.ru_maxrss / 1e6:.0f}",
                f"{1024 * (found.ru_maxrss - start.ru_maxrss) / rows:.0f}",
            ]
            print(f"| `{name}` | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
