"""Speed of selecting the top quarter of a large score folder, against a bare DuckDB query.

python scripts/bench_select.py                        # 1 and 10 million rows, 4 GB of disk
python scripts/bench_select.py --rows 100000 --rows 1000000
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from made_up import finished_manifest

from clipdre.config import MeasureConfig
from clipdre.core.columns import Column
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA

if TYPE_CHECKING:
    from clipdre.scorers.base import Arrays, Pool, Rows

FILES = 100
WORDS = np.array(["red", "blue", "dog", "photo", "of", "a", "the", "car", "in", "house", "with"])
BARE = """
import duckdb, sys
duckdb.sql(f'''SELECT uid FROM read_parquet('{sys.argv[1]}/scores/*.parquet') WHERE kl_text >=
    (SELECT quantile_cont(kl_text, 0.75) FROM read_parquet('{sys.argv[1]}/scores/*.parquet'))
''').to_arrow_table()
"""


def write_scores(
    folder: Path, rows: int, files: int = FILES, *, d: int = 512, with_measured: bool = False
) -> None:
    """Write a score folder of random rows with all columns of `clipdre score`."""
    shards = []
    for n in range(files):
        size = rows * (n + 1) // files - rows * n // files
        rng = np.random.default_rng(n)
        digits = rng.bytes(16 * size).hex()
        uids = pa.array([digits[32 * row : 32 * row + 32] for row in range(size)])
        words = WORDS[rng.integers(0, len(WORDS), (8, size))]
        columns: dict[str, object] = {
            "key": pc.utf8_slice_codeunits(uids, 0, 12),
            "uid": uids,
            "shard": [f"{n:08d}"] * size,
            "path": [f"/pool/{n:08d}.tar"] * size,
            "offset": np.arange(size) * 20_480,
            "nbytes": np.full(size, 20_480),
            "image_offset": np.arange(size) * 20_480 + 512,
            "image_nbytes": np.full(size, 16_384),
            "caption": pc.binary_join_element_wise(*words.tolist(), " "),
            "width": rng.integers(64, 1024, size),
            "height": rng.integers(64, 1024, size),
            "key_hash": rng.integers(0, 2**64, size, dtype=np.uint64),
        }
        table = pa.table(columns, schema=SAMPLE_SCHEMA)
        for name in SCORE_COLUMNS:
            table = table.append_column(name, pa.array(rng.gamma(4, size=size).astype(np.float32)))
        path = ScoreFolder(folder).scores(f"{n:08d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")
        name = f"{n:08d}"
        shard = ShardRecord(name=name, url=f"{name}.tar", nbytes=0, modified="", rows=size)
        shards.append(shard)
    manifest = finished_manifest(shards, d)
    manifest.write(folder)
    if with_measured:
        # torch stays out of this process: its memory would count as that of the commands it starts
        from clipdre.pipelines.measure import measure  # noqa: PLC0415

        measure(ScoreFolder(folder), manifest, Scattered(), MeasureConfig(device="cpu"))


@dataclass(frozen=True)
class Scattered:
    """A scorer that costs nothing: a number from the key hash."""

    name: ClassVar = "scattered"
    title: ClassVar = "A number from the key hash"
    source: ClassVar = "this benchmark"
    version: ClassVar = 1
    example: ClassVar = {}

    def columns(self) -> tuple[Column, ...]:
        """See `clipdre.scorers.base.Scorer`."""
        return (Column("scattered", "", "a number from the key hash"),)

    def fit(self, pool: Pool) -> Arrays:  # noqa: ARG002
        """See `clipdre.scorers.base.Scorer`."""
        return {}

    def score(self, rows: Rows, learned: Mapping[str, np.ndarray]) -> Arrays:  # noqa: ARG002
        """See `clipdre.scorers.base.Scorer`."""
        return {"scattered": np.sin(rows.hashes.astype(np.float64))}


def used(command: list[str]) -> tuple[float, resource.struct_rusage]:
    """Run a process; return its seconds, and what it used with its children."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    printed = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {printed[-500:]}")
    return time.perf_counter() - started, usage


def measured(command: list[str]) -> tuple[float, float]:
    """Run a process; return its seconds and peak resident memory in GB."""
    seconds, usage = used(command)
    return seconds, usage.ru_maxrss / 2**20


def compare_measured(rows: int, repeats: int) -> None:
    """Print what ranking by a measured column costs, against a column of `clipdre score`."""
    clipdre = str(Path(sys.executable).parent / "clipdre")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "scores"
        options = {"with_measured": True}
        writer = get_context("spawn").Process(
            target=write_scores, args=(folder, rows), kwargs=options
        )
        writer.start()
        writer.join()
        out = ["--top", "25%", "-o", f"{temporary}/kept.npy", "--format", "uids", "--overwrite"]
        commands = {
            name: [clipdre, "filter", str(folder), "--by", name, *out]
            for name in ("similarity", "scattered")
        }
        runs = [[measured(command) for command in commands.values()] for _ in range(repeats)]
    print(f"\n{rows:,} rows, top 25 % to uids, by\n")
    print("| column | seconds | times similarity | peak GB |\n|---|---|---|---|")
    own = statistics.median(run[0][0] for run in runs)
    for n, name in enumerate(commands):
        seconds = statistics.median(run[n][0] for run in runs)
        peak = statistics.median(run[n][1] for run in runs)
        label = name if name == "similarity" else "a measured column"
        print(f"| {label} | {seconds:.2f} | {seconds / own:.2f} | {peak:.2f} |")


def main(
    rows: Annotated[list[int], typer.Option(help="Pool sizes.")] = [  # noqa: B006
        1_000_000,
        10_000_000,
    ],
    measured_rows: Annotated[int, typer.Option(help="Rows of the second table.")] = 4_000_000,
    repeats: Annotated[int, typer.Option(help="Interleaved runs; the table has the medians.")] = 3,
) -> None:
    """Print one table: seconds and peak memory at each size, and their growth."""
    clipdre = str(Path(sys.executable).parent / "clipdre")
    print(f"top 25 % to uids, {len(SAMPLE_SCHEMA) + len(SCORE_COLUMNS)} columns, {FILES} files\n")
    print("| rows | clipdre filter, s | bare DuckDB, s | ratio | peak GB | bare, peak GB |")
    print("|---|---|---|---|---|---|")
    results = []
    for n in rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "scores"
            writer = get_context("spawn").Process(target=write_scores, args=(folder, n))
            writer.start()  # spawned, since the peak of a forked child includes its parent's memory
            writer.join()
            out = ["-o", f"{temporary}/kept.npy", "--format", "uids", "--overwrite"]
            ours = [clipdre, "filter", str(folder), "--by", "kl_text", "--top", "25%", *out]
            bare = [sys.executable, "-c", BARE, str(folder)]
            runs = [(*measured(ours), *measured(bare)) for _ in range(repeats)]
            seconds, peak, bare_seconds, bare_peak = map(statistics.median, zip(*runs, strict=True))
            ratio = seconds / bare_seconds
            print(
                f"| {n:,} | {seconds:.2f} | {bare_seconds:.2f} | {ratio:.2f} | {peak:.2f} "
                f"| {bare_peak:.2f} |"
            )
            results.append((n, seconds, peak))
    (n0, seconds0, peak0), (n1, seconds1, peak1) = results[0], results[-1]
    print(
        f"\n{n1 / n0:.0f} times the rows: {seconds1 / seconds0:.1f} times the time, "
        f"{peak1 / peak0:.2f} times the memory"
    )
    compare_measured(measured_rows, repeats)


if __name__ == "__main__":
    typer.run(main)
