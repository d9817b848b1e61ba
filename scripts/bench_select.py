"""Speed of selecting the top quarter of a large score folder, against a bare DuckDB query.

python scripts/bench_select.py                        # 1 and 10 million rows, 4 GB of disk
python scripts/bench_select.py --rows 100000 --rows 1000000
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from clipdre import __version__
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, ModelRecord, ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, SCORE_COLUMNS

FILES = 100
WORDS = np.array(["red", "blue", "dog", "photo", "of", "a", "the", "car", "in", "house", "with"])
MODEL = ModelRecord("synthetic", None, "synthetic", 512, 100.0, 0.0, "fp32", {})
BARE = """
import duckdb, sys
duckdb.sql(f'''SELECT uid FROM read_parquet('{sys.argv[1]}/scores/*.parquet') WHERE kl_text >=
    (SELECT quantile_cont(kl_text, 0.75) FROM read_parquet('{sys.argv[1]}/scores/*.parquet'))
''').to_arrow_table()
"""


def write_scores(folder: Path, rows: int, files: int = FILES) -> None:
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
            "offset": np.arange(size) * 20_480,
            "nbytes": np.full(size, 20_480),
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
        shards.append(ShardRecord(f"{n:08d}", f"{n:08d}.tar", 0, "", size))
    reference = {"method": "exact", "digest": "synthetic"}
    settings = {"read": {}}
    Manifest(__version__, MODEL, settings, tuple(shards), reference, complete=True).write(folder)


def measured(command: list[str]) -> tuple[float, float]:
    """Run a process; return its seconds and peak resident memory in GB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 2**20


def main(
    rows: Annotated[list[int], typer.Option(help="Pool sizes.")] = [  # noqa: B006
        1_000_000,
        10_000_000,
    ],
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


if __name__ == "__main__":
    typer.run(main)
