"""Measured columns written by hand, as `clipdre measure` leaves them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest

STAMP = "0123abcd"


def rows_stamp(hashes: Sequence[int]) -> str:
    """Digest the key hashes of one shard's rows, little-endian."""
    packed = b"".join(int(h).to_bytes(8, "little") for h in hashes)
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def key_hashes_of(folder: Path, manifest: Manifest) -> list[list[int]]:
    """Read the key hashes of each shard from its score file."""
    files = [ScoreFolder(folder).scores(shard.name) for shard in manifest.shards]
    return [pq.read_table(file)["key_hash"].to_pylist() for file in files]


def write_columns(
    path: Path, shard: str, columns: Mapping[str, object], hashes: Sequence[int], stamp: str = STAMP
) -> None:
    """Write one shard's columns with its stamp."""
    path.mkdir(parents=True, exist_ok=True)
    metadata = {"clipdre.measure": stamp, "clipdre.rows": rows_stamp(hashes)}
    table = pa.table(dict(columns)).replace_schema_metadata(metadata)
    pq.write_table(table, path / f"{shard}.parquet", row_group_size=1000)


def write_record(path: Path, names: Sequence[str], rows: int, stamp: str = STAMP) -> None:
    """Write the record that marks the columns as complete."""
    described = [
        {"name": name, "unit": "cosine", "meaning": f"meaning of {name}", "better": "high"}
        for name in names
    ]
    record = {
        "scorer": "made-up",
        "version": 1,
        "settings": {"size": 3},
        "stamp": stamp,
        "columns": described,
        "figures": {"mean": 0.5},
        "rows": rows,
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "record.json").write_text(json.dumps(record))


def write_measured(
    folder: Path, manifest: Manifest, name: str, columns: Mapping[str, np.ndarray]
) -> Path:
    """Write complete columns, given for all rows in pool order; return their folder."""
    path = folder / "columns" / name
    start = 0
    for shard, hashes in zip(manifest.shards, key_hashes_of(folder, manifest), strict=True):
        rows = slice(start, start + len(hashes))
        write_columns(path, shard.name, {n: v[rows] for n, v in columns.items()}, hashes)
        start += len(hashes)
    write_record(path, list(columns), start)
    return path


def _remove_a_shard(path: Path, folder: Path, manifest: Manifest) -> None:
    (path / "00001.parquet").unlink()


def _truncate_a_shard(path: Path, folder: Path, manifest: Manifest) -> None:
    data = (path / "00001.parquet").read_bytes()
    (path / "00001.parquet").write_bytes(data[: len(data) // 2])


def _change_a_stamp(path: Path, folder: Path, manifest: Manifest) -> None:
    hashes = key_hashes_of(folder, manifest)[1]
    columns = pq.read_table(path / "00001.parquet").to_pydict()
    write_columns(path, "00001", columns, hashes, stamp="other")


def _drop_a_row_of_a_shard(path: Path, folder: Path, manifest: Manifest) -> None:
    hashes = key_hashes_of(folder, manifest)[1]
    columns = pq.read_table(path / "00001.parquet")[1:].to_pydict()
    write_columns(path, "00001", columns, hashes)


def _swap_two_rows_of_the_scores(path: Path, folder: Path, manifest: Manifest) -> None:
    scores = ScoreFolder(folder).scores("00001")
    table = pq.read_table(scores)
    pq.write_table(table.take([1, 0, *range(2, len(table))]), scores)


def _measure_fewer_rows(path: Path, folder: Path, manifest: Manifest) -> None:
    record = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(record | {"rows": manifest.rows - 1}))


def _copy_the_columns_of_another_shard(path: Path, folder: Path, manifest: Manifest) -> None:
    shutil.copy(path / "00000.parquet", path / "00001.parquet")


# Changes after which measured columns no longer belong to their pool.
STALE = (
    _remove_a_shard,
    _truncate_a_shard,
    _change_a_stamp,
    _drop_a_row_of_a_shard,
    _swap_two_rows_of_the_scores,
    _measure_fewer_rows,
    _copy_the_columns_of_another_shard,
)
