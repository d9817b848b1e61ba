"""Tars of kept samples: byte spans of their sources, under unique keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from itertools import groupby
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from clipdre.errors import ScoresError
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.tars.spans import (
    Source,
    captioned,
    checked,
    end_archive,
    renamed,
    write_samples,
)
from clipdre.sql.expressions import FILE, ROW


def write_tar(out: BinaryIO | FileIO, samples: Iterable[memoryview | bytes]) -> int:
    """Write samples as a whole tar; return its size before the end of the archive.

    An unbuffered file takes many samples per system call, any other file one after the other.
    """
    if isinstance(out, FileIO):
        written = write_samples(out, samples)
    else:
        written = sum(out.write(sample) for sample in samples)
    end_archive(out, written)
    return written


def keys_of(table: pa.Table | pa.RecordBatch) -> list[str]:
    """Return the keys of rows; `ScoresError` if one has none, as a stranger's might."""
    keys: list[str] = table["key"].to_pylist()
    if None in keys:
        raise ScoresError("the scores have samples without a key", SCORE_AGAIN)
    return keys


def unique_keys(table: pa.Table, collisions: dict[str, int]) -> list[str]:
    """Return the keys of rows in a tar, with those in `collisions` made unique.

    A key that other shards hold too is prefixed with its shard's name. A key that its own shard
    holds twice also gets the number of its row.
    """
    keys = keys_of(table)
    if not collisions:
        return keys
    taken = {key for key in keys if key not in collisions}
    shards, rows = table["shard"].to_pylist(), table[ROW].to_pylist()
    for n, key in enumerate(keys):
        if key in collisions:
            folder, slash, base = key.rpartition("/")
            # Loaders end a key at its first dot, so the shard's name must not contain any.
            new = f"{folder}{slash}{shards[n].replace('.', '_')}-{base}"
            if collisions[key] > 1 or new in taken:
                new = f"{new}-{rows[n]}"
            while new in taken:
                new += "-"
            taken.add(new)
            keys[n] = new
    return keys


def sample_bytes(
    tars: Mapping[int, Source], table: pa.Table, keys: list[str], write_caption: bool
) -> Iterator[memoryview | bytes]:
    """Yield the samples of rows in pool order, under `keys`, with their captions if so asked.

    Parameters
    ----------
    tars : mapping of int to Source
        By the values of column `FILE`.
    """
    old, sources = keys_of(table), table[FILE].to_pylist()
    offsets, sizes = table["offset"].to_pylist(), table["nbytes"].to_pylist()
    captions = table["caption"].to_pylist() if write_caption else [None] * len(table)
    for index, group in groupby(range(len(table)), sources.__getitem__):
        rows = list(group)
        with tars[index].opened() as source:
            spans = source.read([(offsets[row], sizes[row]) for row in rows])
            for row, span in zip(rows, spans, strict=True):
                sample: memoryview | bytes = checked(span, old[row], source.name)
                if keys[row] != old[row]:
                    sample = renamed(sample, keys[row], source.name)
                caption = captions[row]
                yield sample if caption is None else captioned(sample, caption)


def shuffled_bytes(
    tars: Mapping[int, Source], table: pa.Table, keys: list[str], write_caption: bool
) -> list[bytes]:
    """Return the samples of rows in any order, read in the order of their sources."""
    order = pc.sort_indices(table, [(FILE, "ascending"), ("offset", "ascending")]).to_pylist()
    moved = [keys[row] for row in order]
    samples: list[bytes] = [b""] * len(table)
    found = sample_bytes(tars, table.take(pa.array(order)), moved, write_caption)
    for row, data in zip(order, found, strict=True):
        samples[row] = bytes(data)
    return samples
