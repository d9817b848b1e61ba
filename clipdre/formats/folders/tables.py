"""Schemas of the Parquet files: samples, failures and scores, one file per shard."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.core.columns import Column
from clipdre.formats.tars.samples import Failure, printable

SAMPLE_FIELDS: tuple[tuple[Column, pa.DataType], ...] = (
    (Column("key", "", "name of the sample in its shard"), pa.string()),
    (Column("uid", "", "uid from the sample's json, if any"), pa.string()),
    (Column("shard", "", "name of the shard"), pa.string()),
    (Column("path", "", "where the shard was when it was scored: path or URL"), pa.string()),
    (Column("offset", "bytes", "start of the sample's span in the (uncompressed) tar"), pa.int64()),
    (Column("nbytes", "bytes", "length of that span, headers and padding included"), pa.int64()),
    (
        Column("image_offset", "bytes", "start of the image's own bytes in an uncompressed tar"),
        pa.int64(),
    ),
    (Column("image_nbytes", "bytes", "number of these bytes: the image file"), pa.int64()),
    (Column("caption", "", "the caption as read"), pa.string()),
    (Column("width", "pixels", "width of the image in its file, upright"), pa.int32()),
    (Column("height", "pixels", "height of the image in its file, upright"), pa.int32()),
    (
        Column("key_hash", "", "64 bits that order samples at random"),
        pa.uint64(),
    ),
)
SAMPLE_SCHEMA = pa.schema([(column.name, kind) for column, kind in SAMPLE_FIELDS])
FAILURE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)
# DuckDB's own columns of a Parquet scan: position of the file in the list, of the row in its file.
PLACE_COLUMNS = ("file_index", "file_row_number")
# Names that begin like this are for columns of queries: no file's column may have one.
PRIVATE = "_clipdre_"
# clip-retrieval's name for a sample's key in its metadata.
CLIP_RETRIEVAL_KEY = "image_path"

MAX_MESSAGE = 500


def is_private(name: str) -> bool:
    """Return whether a file's column of this name would hide one of our own, as SQL reads names."""
    return name.lower().startswith(PRIVATE) or name.lower() in PLACE_COLUMNS


def key_hash(shard: str, key: str, occurrence: int = 0) -> int:
    """Return 64 bits that order samples at random, the same on any machine.

    `occurrence` distinguishes samples of a shard that share a key.
    """
    name = (f"{shard}/{key}" + f"\0{occurrence}" * (occurrence > 0)).encode(
        "utf-8", "surrogatepass"
    )
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def key_hashes(shard: str, keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return `key_hash` of all keys of a shard, in order; uint64 of shape (n,)."""
    seen: Counter[str] = Counter()
    hashes = np.empty(len(keys), np.uint64)
    for n, key in enumerate(keys):
        hashes[n] = key_hash(shard, key, seen[key])
        seen[key] += 1
    return hashes


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """Return one row per failed sample, in shard order."""
    rows = [
        {
            "key": printable(failure.key),
            "offset": failure.offset,
            "stage": failure.stage.value,
            "reason": failure.reason.value,
            "message": printable(failure.message)[:MAX_MESSAGE],
        }
        for failure in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA)


def sample_rows(
    stored: pa.Table, place: str | None, kept: Mapping[str, pa.Array] | None = None
) -> pa.Table:
    """Return sample columns as score files have them, from those stored with the embeddings.

    Columns that an earlier clipdre did not store are null; other columns follow.

    Parameters
    ----------
    place : str or None
        Path or URL of the shard; None if there is no tar.
    kept : mapping of str to array, optional
        Columns to put in the place of stored ones.
    """
    rows = len(stored)
    columns = {
        field.name: stored[field.name]
        if field.name in stored.column_names
        else pa.nulls(rows, field.type)
        for field in SAMPLE_SCHEMA
    }
    columns["path"] = pa.array([place] * rows, pa.string())
    others = {name: stored[name] for name in stored.column_names if name not in columns}
    return pa.table(columns | others | dict(kept or {}))


def scores_table(samples: pa.Table, columns: Mapping[str, npt.NDArray[np.floating]]) -> pa.Table:
    """Return the rows of `samples` followed by the score `columns`, as float32."""
    for name, values in columns.items():
        samples = samples.append_column(name, pa.array(values.astype(np.float32)))
    return samples


def row_digest(hashes: npt.NDArray[np.uint64]) -> str:
    """Return a digest of a shard's key hashes: files with the same one are aligned row for row."""
    return hashlib.blake2b(hashes.astype("<u8").tobytes(), digest_size=16).hexdigest()
