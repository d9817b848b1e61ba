"""Time, memory and size of `clipdre look`, and how fast its page answers in a browser.

python scripts/bench_look.py                        # 1 and 10 million rows, 7 GB of disk
python scripts/bench_look.py --rows 100000
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from bench_select import FILES, write_scores
from browser import chromium, opened

from clipdre.core.modality import Modality
from clipdre.core.scores import MAIN_COLUMNS
from clipdre.formats.folders.embeddings import embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import PROBABILITIES, read_manifest
from clipdre.sql.query import ScoreQuery
from clipdre.sql.statistics import quantiles

# Short vectors, to save disk: counterparts are looked for among a fixed number of pairs.
DIM = 64

RULES = ["--recipe", "log-ratio", "--recipe", "clipscore", "--budget", "30%"]
DRAG = """
async () => {
    const line = document.getElementById("cut-line"), times = [];
    for (let n = 0; n < 100; n++) {
        line.value = (n * 7) % Number(line.max);
        const start = performance.now();
        line.dispatchEvent(new Event("input"));
        await views.cut.runAsync();
        times.push(performance.now() - start);
    }
    times.sort((a, b) => a - b);
    return [times[50], times[95]];
}
"""


class Browsed(NamedTuple):
    """Seconds until the line can be moved; milliseconds of a move: median and 95th percentile."""

    render: float
    median: float
    slow: float


def write_embeddings(folder: Path) -> None:
    """Write random embeddings of all rows."""
    shards = read_manifest(folder).shards
    files = embedding_files(ScoreFolder(folder).embeddings, len(shards))
    for n, (shard, own) in enumerate(zip(shards, files, strict=True)):
        rng = np.random.default_rng(n)
        for modality in Modality:
            path = own.array(modality)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rng.standard_normal((shard.rows, DIM)).astype(np.float16))


def write_quantiles(folder: Path) -> None:
    """Put the quantiles of the main scores into the manifest, as `clipdre score` does."""
    manifest = read_manifest(folder)
    query = ScoreQuery(ScoreFolder(folder), manifest)
    found = quantiles(query, MAIN_COLUMNS, PROBABILITIES)
    kept = {name: tuple(values) for name, values in found.items()}
    msgspec.structs.replace(manifest, quantiles=kept).write(folder)


def browsed(page: Path) -> Browsed | None:
    """Open a page and move its line; None without a browser."""
    program = chromium()
    if program is None:
        return None
    with opened(page, program, 1280, 900) as found:
        return Browsed(found.seconds, *found.tab.evaluate(DRAG))


def main(
    rows: Annotated[list[int] | None, typer.Option(help="Rows of a made-up pool.")] = None,
) -> None:
    """Print a row of a table for each pool."""
    print("| rows | seconds | peak memory | page | to first chart | a move of the line (95%) |")
    print("|---|---|---|---|---|---|")
    for count in rows or [1_000_000, 10_000_000]:
        with tempfile.TemporaryDirectory() as name:
            folder, page = Path(name) / "scores", Path(name) / "page.html"
            write_scores(folder, count, FILES)
            write_embeddings(folder)
            write_quantiles(folder)
            start = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "clipdre",
                "look",
                str(folder),
                *RULES,
                "-o",
                str(page),
            ]
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            size = page.stat().st_size / 1e6
            found = browsed(page)
            seen = (
                "| | "
                if found is None
                else f"| {found.render:.2f} s | {found.median:.0f} ms ({found.slow:.0f} ms) "
            )
            print(
                f"| {count:,} | {seconds:.1f} | {peak:.2f} GB | {size:.1f} MB {seen}|", flush=True
            )


if __name__ == "__main__":
    typer.run(main)
