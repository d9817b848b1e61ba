"""Write a subset as one file or stream: keys, uids, a table or a tar."""

from __future__ import annotations

import json
import math
import re
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from clipdre.config import SubsetFormat
from clipdre.emitting.index import write_index
from clipdre.emitting.subset import Subset
from clipdre.emitting.tars import keys_of, sample_bytes, unique_keys, write_tar
from clipdre.errors import OutputError
from clipdre.formats.uids import DIGITS, UID, UidFile
from clipdre.sql.expressions import FILE, POOL, ROW
from clipdre.words import count

KEY_SEPARATOR = "/"
# What `split_lines` ends a name at.
LINE_ENDS = re.compile("[\\n\\r\\0]")
HAS_UID = f"coalesce(regexp_matches(uid, '{UID}'), false)"


def write_keys(subset: Subset, out: BinaryIO) -> None:
    """Write one ``shard/key`` per line, since keys may repeat across shards.

    Raises
    ------
    OutputError
        If a name contains the end of a line, or is that of a sample of another shard too, and would
        be read back as other names.
    """
    shared = _shared_names(subset)
    for batch in subset.batches(["shard", "key"]):
        pairs = zip(batch["shard"].to_pylist(), keys_of(batch), strict=True)
        names = [f"{shard}{KEY_SEPARATOR}{key}" for shard, key in pairs]
        odd = next((name for name in names if LINE_ENDS.search(name)), None)
        if odd is not None:
            problem = f"a list of lines cannot hold {odd!r}, which contains the end of a line"
            raise OutputError(problem, "set `format` to jsonl")
        if not shared.isdisjoint(names):
            name = next(name for name in names if name in shared)
            problem = f"samples of two shards are {name!r} in a list of lines"
            raise OutputError(problem, "set `format` to jsonl")
        out.write("".join(f"{name}\n" for name in names).encode())


def _shared_names(subset: Subset) -> set[str]:
    """Return the names that samples of several shards have: a/b/c may be of shard a or a/b."""
    shards = {shard.name for shard in subset.manifest.shards}
    if not any(str(above) in shards for name in shards for above in PurePosixPath(name).parents):
        return set()
    name = f"concat(shard, '{KEY_SEPARATOR}', key)"
    return {
        found
        for (found,) in subset.selection.query.fetchall(
            f"SELECT {name} FROM {POOL} GROUP BY ALL HAVING count(DISTINCT shard) > 1"
        )
    }


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
    """Write the kept rows as CSV with a header; lists and structs become JSON, bytes base64."""
    schema, batches = _tables(subset)
    flat = pa.schema([f if _is_flat(f.type) else f.with_type(pa.string()) for f in schema])
    with pc.CSVWriter(out, flat) as writer:
        for batch in batches:
            columns = [
                column
                if _is_flat(column.type)
                else pa.array(map(_text, _values(column)), pa.string())
                for column in batch.columns
            ]
            writer.write_batch(pa.record_batch(columns, schema=flat))


def _is_flat(kind: pa.DataType) -> bool:
    """Return whether Arrow writes values of this type as CSV."""
    types = pa.types
    return types.is_string(kind) or (types.is_primitive(kind) and not types.is_interval(kind))


def _text(value: Any) -> str | None:
    """Return a value as text of one cell."""
    plain = _plain(value)
    return (
        plain if plain is None or isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    )


def write_jsonl(subset: Subset, out: BinaryIO) -> None:
    """Write the kept rows as one JSON object per line; NaN becomes null, bytes base64."""
    _, batches = _tables(subset)
    for batch in batches:
        values = zip(*map(_values, batch.columns), strict=True)
        rows = (_plain(dict(zip(batch.schema.names, row, strict=True))) for row in values)
        out.write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values; times as text, because Python has no nanoseconds."""
    is_time = pa.types.is_temporal(column.type) and not pa.types.is_interval(column.type)
    return list((column.cast(pa.string()) if is_time else column).to_pylist())


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, also inside of lists and structs."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def write_tar_stream(subset: Subset, out: BinaryIO) -> None:
    """Write the kept samples as one tar, in pool order."""
    collisions = subset.collisions  # a query, so not while batches are read
    captions = ["caption"] if subset.write_caption else []

    def samples() -> Iterator[memoryview | bytes]:
        for batch in subset.batches(["shard", "key", "offset", "nbytes", *captions]):
            table = pa.Table.from_batches([batch])
            keys = unique_keys(table, collisions)
            yield from sample_bytes(subset.sources(table), table, keys, subset.write_caption)

    write_tar(out, samples())


WRITERS: dict[SubsetFormat, Callable[[Subset, BinaryIO], None]] = {
    SubsetFormat.TAR: write_tar_stream,
    SubsetFormat.INDEX: write_index,
    SubsetFormat.KEYS: write_keys,
    SubsetFormat.UIDS: write_uids,
    SubsetFormat.PARQUET: write_parquet,
    SubsetFormat.ARROW: write_arrow,
    SubsetFormat.CSV: write_csv,
    SubsetFormat.JSONL: write_jsonl,
}
