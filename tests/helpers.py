"""What tests share: small shards made on the spot, and short ways to score and select."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipdre.config import TINY_MODEL, EncodeConfig, RunConfig
from clipdre.emitting.subset import Subset
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.formats.folders.records import ModelRecord, ReferenceRecord, ShardRecord
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.selecting.rules import AMOUNTS, Amount, Rule, Step
from clipdre.selecting.select import Selection, select
from clipdre.sql.query import ScoreQuery

Members = Sequence[tuple[str, bytes]]


def png(seed: int = 0, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    """A small random PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of (name, content), as any stranger would write it."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pair(key: str, caption: str = "red circle", seed: int = 0, **metadata: object) -> Members:
    """Members of one good sample."""
    members = [(f"{key}.png", png(seed)), (f"{key}.txt", caption.encode())]
    if metadata:
        members.append((f"{key}.json", json.dumps(metadata).encode()))
    return members


def read_scores(folder: Path, manifest: Manifest) -> pa.Table:
    """All score rows in pool order."""
    files = [ScoreFolder(folder).scores(shard.name) for shard in manifest.shards]
    return pa.concat_tables([pq.read_table(f).replace_schema_metadata(None) for f in files])


def read_failures(folder: Path, manifest: Manifest) -> list[Mapping[str, object]]:
    """All failure rows in pool order."""
    files = [ScoreFolder(folder).failures(shard.name) for shard in manifest.shards]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


TINY = ScoreConfig(encode=EncodeConfig(model=TINY_MODEL, device="cpu", batch_size=64, workers=2))


def tiny_score(
    pool: Path, output: Path, config: ScoreConfig = TINY, **options: bool | float
) -> Manifest:
    """Score all shards of a folder with the embedded model."""
    return score(expand_shards([str(pool)]), output, config, RunConfig(**options))


def unmeasured(folder: Path) -> Manifest:
    """Forget the pool's reliability, of which selections from a small pool would warn."""
    manifest = msgspec.structs.replace(read_manifest(folder), pool_reliability={})
    manifest.write(folder)
    return manifest


def all_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def chosen(
    scored: tuple[Path, Manifest], joined: Sequence[Path] = (), seed: int = 0, **step: object
) -> Selection:
    """What one step keeps; amounts as numbers."""
    for name in AMOUNTS:
        if name in step:
            step[name] = Amount(step[name])
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1], joined)
    return select(query, Rule((Step(**step),), seed=seed))


def subset_of(scored: tuple[Path, Manifest], **step: object) -> Subset:
    """`chosen`, as a subset."""
    return Subset(chosen(scored, **step))


def rows_of(subset: Subset) -> pa.Table:
    """The rows of a subset in its order."""
    return pa.Table.from_batches(list(subset.batches()))


MADE_UP_MODEL = ModelRecord(
    name="made-up",
    pretrained=None,
    digest="made-up",
    embedding_dim=2,
    logit_scale=100.0,
    logit_bias=0.0,
    precision="fp32",
    preprocessing={},
)
MADE_UP_REFERENCE = ReferenceRecord(
    method="exact",
    pairs=2,
    bulk=0,
    folds=0,
    neighbors=0,
    model_digest="made-up",
    logit_scale=100.0,
    logit_bias=0.0,
    embedding_dim=2,
    digest="made-up",
)


def write_score_folder(folder: Path, tables: Sequence[Mapping[str, object]]) -> Manifest:
    """Write a finished score folder with made-up columns, a table for each shard."""
    shards = []
    for n, columns in enumerate(tables):
        table = pa.table(columns)
        path = ScoreFolder(folder).scores(f"{n:05d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        shard = ShardRecord(
            name=f"{n:05d}", url=f"{n:05d}.tar", nbytes=0, modified="", rows=len(table)
        )
        shards.append(shard)
    manifest = Manifest(
        clipdre_version="0",
        model=MADE_UP_MODEL,
        settings={"read": {}},
        shards=tuple(shards),
        reference=MADE_UP_REFERENCE,
        complete=True,
    )
    manifest.write(folder)
    return manifest


PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
"""


def peak_memory(code: str, *arguments: object) -> list[int]:
    """Run code in a process of its own; return the numbers that it prints.

    It may call ``peak()``, the largest resident memory so far. `resource.getrusage` would begin
    with that of the process that starts it.
    """
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]
