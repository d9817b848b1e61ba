"""Growth of `clipdre filter`: a recipe of two steps, one of them by a measured column.

python scripts/bench_filter.py                                        # 3 GB of disk
python scripts/bench_filter.py --rows 10000000 --rows 100000000       # 15 GB of disk
"""

from __future__ import annotations

import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from bench_select import measured
from made_up import finished_manifest

from clipdre.core.columns import Column
from clipdre.formats.files.parquet import save_table
from clipdre.formats.folders.columns import ROWS, ColumnFolder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ColumnRecord, MeasureRecord, ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, row_digest

FILE_ROWS = 100_000
RECIPE = "negcliploss-normsim"
STAMP = "made up"


def write_scores(folder: Path, rows: int) -> None:
    """Write a score folder with random uids, hashes, and the two columns of the recipe."""
    scores, column = ScoreFolder(folder), Column("normsim", "cosine", "made up")
    columns = ColumnFolder(scores.columns / column.name)
    shards = []
    for n in range(-(-rows // FILE_ROWS)):
        size = min(FILE_ROWS, rows - n * FILE_ROWS)
        rng, name = np.random.default_rng(n), f"{n:08d}"
        hashes = rng.integers(0, 2**64, size, dtype=np.uint64)
        digest = row_digest(hashes)
        path = scores.scores(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_table(scored(rng, name, hashes), path, {ROWS: digest})
        columns.write(name, {column.name: random_floats(rng, size)}, columns.stamp(STAMP, digest))
        shards.append(ShardRecord(name=name, url=f"{name}.tar", nbytes=0, modified="", rows=size))
    columns.write_record(
        MeasureRecord(
            scorer=column.name,
            version=1,
            settings={},
            stamp=STAMP,
            columns=(ColumnRecord.of(column),),
            figures={},
            rows=rows,
        )
    )
    finished_manifest(shards).write(folder)


def scored(rng: np.random.Generator, shard: str, hashes: np.ndarray) -> pa.Table:
    """Draw the score file of one shard; sample columns that the filter does not read are null."""
    size = len(hashes)
    starts = pa.py_buffer(np.arange(0, 32 * size + 1, 32, dtype=np.int32))
    uids = pa.StringArray.from_buffers(
        size, starts, pa.py_buffer(rng.bytes(16 * size).hex().encode())
    )
    known = {"uid": uids, "key": uids, "shard": pa.array([shard] * size), "key_hash": hashes}
    columns = {f.name: known.get(f.name, pa.nulls(size, f.type)) for f in SAMPLE_SCHEMA}
    table = pa.table(columns, schema=SAMPLE_SCHEMA)
    return table.append_column("negcliploss", pa.array(random_floats(rng, size)))


def random_floats(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a column of floats."""
    return rng.standard_normal(size, dtype=np.float32)


def main(
    rows: Annotated[list[int], typer.Option(help="Pool sizes.")] = [  # noqa: B006
        1_000_000,
        10_000_000,
    ],
) -> None:
    """Print one table: seconds and peak memory at each size, and the growth of both."""
    clipdre = str(Path(sys.executable).parent / "clipdre")
    print(f"clipdre filter --recipe {RECIPE} to uids, files of {FILE_ROWS:,} rows\n")
    print("| rows | files | seconds | times before | peak GB | times before |")
    print("|---|---|---|---|---|---|")
    before: tuple[float, float] | None = None
    for size in rows:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "scores"
            # spawned, since the peak of a forked child includes its parent's memory
            writer = get_context("spawn").Process(target=write_scores, args=(folder, size))
            writer.start()
            writer.join()
            out = ["-o", f"{temporary}/kept.npy", "--format", "uids"]
            seconds, peak = measured([clipdre, "filter", str(folder), "--recipe", RECIPE, *out])
        growth = ("", "")
        if before is not None:
            growth = (f"{seconds / before[0]:.2f}", f"{peak / before[1]:.2f}")
        files = -(-size // FILE_ROWS)
        print(
            f"| {size:,} | {files:,} | {seconds:.1f} | {growth[0]} | {peak:.2f} | {growth[1]} |",
            flush=True,
        )
        before = seconds, peak


if __name__ == "__main__":
    typer.run(main)
