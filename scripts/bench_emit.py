"""Speed of writing a part of a pool as shards, against webdataset and cp.

python scripts/bench_emit.py
python scripts/bench_emit.py --samples 184000 --share 0.5 --no-webdataset   # 2 of 4 GB, disk for 10
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import webdataset as wds
from made_up import finished_manifest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.subset import Subset
from clipdre.formats.files.storage import identify
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hashes
from clipdre.formats.tars.locate import locate
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import Selection, select
from clipdre.sql.query import ScoreQuery

SHARDS = 20


def write_pool(folder: Path, samples: int) -> None:
    """Write shards of random bytes: images of 8 to 30 kB, captions and short JSON."""
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for n in range(samples // SHARDS):
                sizes = {"jpg": int(rng.integers(8_000, 30_000)), "txt": 60, "json": 300}
                for suffix, size in sizes.items():
                    info = tarfile.TarInfo(f"{shard:05d}{n:04d}.{suffix}")
                    info.size = size
                    tar.addfile(info, BytesIO(rng.bytes(size)))


def write_scores(pool: Path, folder: Path) -> Manifest:
    """Write a score folder for the pool, with one random column."""
    rng, records = np.random.default_rng(1), []
    for path in sorted(pool.glob("*.tar")):
        with open(path, "rb") as file:
            found = list(locate(file, bool))
        keys = [sample.key for sample in found]
        columns = {
            name: pa.nulls(len(found), SAMPLE_SCHEMA.field(name).type)
            for name in SAMPLE_SCHEMA.names
        }
        columns["key"], columns["shard"] = keys, [path.stem] * len(found)
        columns["offset"] = [sample.offset for sample in found]
        columns["nbytes"] = [sample.nbytes for sample in found]
        columns["key_hash"] = key_hashes(path.stem, keys)
        table = pa.table(columns, schema=SAMPLE_SCHEMA)
        table = table.append_column("score", pa.array(rng.normal(size=len(found))))
        target = ScoreFolder(folder).scores(path.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
        identity = identify(str(path))
        records.append(
            ShardRecord(
                name=path.stem,
                url=str(path),
                nbytes=identity.nbytes,
                modified=identity.modified,
                rows=len(found),
            )
        )
    manifest = finished_manifest(records)
    manifest.write(folder)
    return manifest


def emitted(selection: Selection, out: Path) -> None:
    """Emit with clipdre: check and copy every span, write scores and counts, sync to disk."""
    write_tar_folder(Subset(selection), out, EmitConfig(shard_size=1000))


def rewritten(pool: Path, keys: set[str], out: Path) -> None:
    """Write the same samples with webdataset, without decoding."""
    out.mkdir()
    urls = sorted(str(path) for path in pool.glob("*.tar"))
    samples = wds.WebDataset(urls, shardshuffle=False)
    with wds.ShardWriter(str(out / "%08d.tar"), maxcount=1000, verbose=0) as writer:
        for sample in samples:
            if sample["__key__"] in keys:
                writer.write(sample)


def copied(tars: list[Path], out: Path) -> None:
    """Copy the emitted tars with cp and sync them to disk, as clipdre does."""
    out.mkdir()
    subprocess.run(["cp", *map(str, tars), str(out)], check=True)
    for path in out.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def seconds(work: Callable[[Path], None], out: Path) -> float:
    """Time one run into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    work(out)
    return time.perf_counter() - started


def made_selection(folder: Path, samples: int, share: float = 0.25) -> Selection:
    """Write ``pool`` and ``scores`` below a folder; return the best `share` of the pool."""
    pool = folder / "pool"
    pool.mkdir()
    write_pool(pool, samples)
    manifest = write_scores(pool, folder / "scores")
    query = ScoreQuery(ScoreFolder(folder / "scores"), manifest)
    return select(query, Rule((Step(by="score", top=Amount(share)),)))


def main(
    samples: Annotated[int, typer.Option(help="Samples in the pool.")] = 20_000,
    repeats: Annotated[int, typer.Option(help="Interleaved runs; the table has the medians.")] = 5,
    share: Annotated[float, typer.Option(help="Share of the pool that is kept.")] = 0.25,
    webdataset: Annotated[bool, typer.Option(help="Compare with webdataset too.")] = True,
) -> None:
    """Print one table: seconds of each way for the same samples, and ratios to clipdre."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        selection = made_selection(folder, samples, share)
        emitted(selection, folder / "first")
        tars = sorted((folder / "first").glob("*.tar"))
        keys = {
            key
            for path in tars
            for key in pq.read_table(path.with_suffix(".parquet"))["key"].to_pylist()
        }
        ways: dict[str, Callable[[Path], None]] = {
            "clipdre": lambda out: emitted(selection, out),
            "webdataset": lambda out: rewritten(folder / "pool", keys, out),
            "cp and fsync": lambda out: copied(tars, out),
        }
        if not webdataset:
            del ways["webdataset"]
        runs = [
            {n: seconds(way, folder / "out") for n, way in ways.items()} for _ in range(repeats)
        ]
        medians = {name: statistics.median(run[name] for run in runs) for name in ways}
        nbytes = sum(path.stat().st_size for path in tars)
        print(f"{len(keys):,} of {samples:,} samples, {nbytes / 1e6:.0f} MB in {len(tars)} tars\n")
        print("| | seconds | times clipdre's |")
        print("|---|---|---|")
        for name, median in medians.items():
            print(f"| {name} | {median:.3f} | {median / medians['clipdre']:.2f} |")


if __name__ == "__main__":
    typer.run(main)
