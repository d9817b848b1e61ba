"""Write a subset as one file or stream: keys, uids, a table or a tar."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from clipdre.config import SubsetFormat
from clipdre.emitting.subset import Subset
from clipdre.emitting.tars import keys_of, sample_bytes, unique_keys, write_tar
from clipdre.formats.uids import DIGITS, UID, UidFile
from clipdre.sql.expressions import FILE, ROW
from clipdre.words import count

KEY_SEPARATOR = "/"
HAS_UID = f"coalesce(regexp_matches(uid, '{UID}'), false)"


def write_keys(subset: Subset, out: BinaryIO) -> None:
    """Write one ``shard/key`` per line, since keys may repeat across shards."""
    for batch in subset.batches(["shard", "key"]):
        pairs = zip(batch["shard"].to_pylist(), keys_of(batch), strict=True)
        out.write("".join(f"{shard}{KEY_SEPARATOR}{key}\n" for shard, key in pairs).encode())


def write_uids(subset: Subset, out: BinaryIO) -> None:
    """Write DataComp's subset file (.npy): the distinct uids of the kept samples, sorted."""
    file = UidFile(len(subset.selection))
    for batch in subset.batches(["uid"]):
        file.add(batch["uid"])
    if file.without:
        (shard, key), *_ = subset.selection.rows.wide().all(
            f"SELECT shard, key FROM {{rows}} WHERE NOT {HAS_UID} ORDER BY key_hash LIMIT 1"
        )
        warnings.warn(
            f"{file.without:,} of {count(len(subset.selection), 'kept sample')} have no uid of up "
            f"to {DIGITS} hex digits (for instance {shard}{KEY_SEPARATOR}{key}) and are left out",
            stacklevel=2,
        )
    file.write(out)


def _tables(subset: Subset) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and batches of the kept rows, without their places."""
    batches = subset.batches()
    first = next(batches, None)
    if first is None:
        return pa.schema([]), iter(())

    def every() -> Iterator[pa.RecordBatch]:
        yield first.drop_columns([FILE, ROW])
        for batch in batches:
            yield batch.drop_columns([FILE, ROW])

    return first.drop_columns([FILE, ROW]).schema, every()


def write_parquet(subset: Subset, out: BinaryIO) -> None:
    """Write the kept rows as one Parquet file."""
    schema, batches = _tables(subset)
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_arrow(subset: Subset, out: BinaryIO) -> None:
    """Write the kept rows as an Arrow IPC stream."""
    schema, batches = _tables(subset)
    with pa.ipc.new_stream(out, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_csv(subset: Subset, out: BinaryIO) -> None:
    """Write the kept rows as CSV with a header; lists and structs become JSON."""
    schema, batches = _tables(subset)
    flat = pa.schema([f.with_type(pa.string()) if _nested(f) else f for f in schema])
    with pc.CSVWriter(out, flat) as writer:
        for batch in batches:
            columns = [
                pa.array([json.dumps(v) for v in column.to_pylist()]) if _nested(field) else column
                for field, column in zip(schema, batch.columns, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=flat))


def _nested(field: pa.Field) -> bool:
    return bool(pa.types.is_nested(field.type))


def write_jsonl(subset: Subset, out: BinaryIO) -> None:
    """Write the kept rows as one JSON object per line; NaN and infinity become null."""
    _, batches = _tables(subset)
    for batch in batches:
        lines = [
            json.dumps(_json(row), ensure_ascii=False, default=str) for row in batch.to_pylist()
        ]
        out.write("".join(f"{line}\n" for line in lines).encode())


def _json(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def write_tar_stream(subset: Subset, out: BinaryIO) -> None:
    """Write the kept samples as one tar, in pool order."""
    collisions = subset.collisions  # a query, so not while batches are read

    def samples() -> Iterator[memoryview | bytes]:
        for batch in subset.batches(["shard", "key", "offset", "nbytes"]):
            table = pa.Table.from_batches([batch])
            yield from sample_bytes(subset, table, unique_keys(table, collisions))

    write_tar(out, samples())


WRITERS: dict[SubsetFormat, Callable[[Subset, BinaryIO], None]] = {
    SubsetFormat.TAR: write_tar_stream,
    SubsetFormat.KEYS: write_keys,
    SubsetFormat.UIDS: write_uids,
    SubsetFormat.PARQUET: write_parquet,
    SubsetFormat.ARROW: write_arrow,
    SubsetFormat.CSV: write_csv,
    SubsetFormat.JSONL: write_jsonl,
}
