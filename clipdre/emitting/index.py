"""Where the samples of a subset are: byte spans of its tars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.emitting.subset import Subset
from clipdre.errors import InputError
from clipdre.formats.files.remote import redacted
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from clipdre.formats.tars.spans import SCORE_AGAIN, place_of
from clipdre.sql.expressions import FILE

SPAN = ("key", "offset", "nbytes")


def located(subset: Subset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the kept rows with key, offset and nbytes, and `columns`.

    Raises
    ------
    InputError
        If the scores do not say where a sample is, as those of a stranger might not.
    """
    for batch in subset.batches(list(dict.fromkeys([*SPAN, *columns]))):
        for name in SPAN:
            if batch[name].null_count:
                row = batch[name].is_null().index(True).as_py()
                shard = redacted(subset.source(batch[FILE][row].as_py()).url)
                problem = f"the scores do not say where the samples of {shard} are"
                raise InputError(problem, SCORE_AGAIN)
        yield batch


def write_index(subset: Subset, out: BinaryIO) -> None:
    """Write where the kept samples are, and their scores, as one Parquet file.

    Its columns are shard, path (of the tar, as it is now), key, offset and nbytes, then those that
    are not of the sample: scores, measured and joined ones.

    Raises
    ------
    InputError
        If a tar is missing or has changed since it was scored.
    OutputError
        If there are no tars.
    """
    subset.check()
    others = [name for name in subset.selection.query.columns if name not in SAMPLE_SCHEMA.names]

    @cache
    def place(file: int) -> str:
        return place_of(subset.source(file).url)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in located(subset, ["shard", *others]):
            paths = pa.array(map(place, batch[FILE].to_pylist()), pa.string())
            found = batch.append_column("path", paths)
            yield found.select(["shard", "path", *SPAN, *others])

    parts = batches()
    first = next(parts)
    with pq.ParquetWriter(out, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for batch in parts:
            writer.write_batch(batch)
