"""A compact index of a subset: where its samples are, and their columns. It needs no database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipdre.emitting.index import SPAN, located
from clipdre.emitting.subset import Subset
from clipdre.errors import SelectionError
from clipdre.formats.tars.spans import Source, contents, place_of
from clipdre.sql.expressions import FILE
from clipdre.words import count

Sample = dict[str, Any]


@dataclass(frozen=True)
class Index:
    """The rows of a subset; it can be sent to other processes.

    Attributes
    ----------
    table : Table
        Key, offset, nbytes and the asked columns of each row, shard after shard.
    columns : tuple of str
        The asked columns.
    shards : list of (Source, range)
        Each tar with its rows.
    digest : str
        Identifies the rows and their order, wherever the tars are.
    """

    table: pa.Table
    columns: tuple[str, ...]
    shards: list[tuple[Source, range]]
    digest: str

    def __len__(self) -> int:
        return len(self.table)

    def samples(
        self, source: Source, rows: range, gone: npt.NDArray[np.bool_] | None
    ) -> Iterator[tuple[int, Sample]]:
        """Yield number and sample of `rows` of one tar, except those that are `gone`."""
        part = self.table.slice(rows.start, len(rows))
        numbers = np.arange(rows.start, rows.stop)
        if gone is not None:
            left = ~gone[rows.start : rows.stop]
            part, numbers = part.filter(pa.array(left)), numbers[left]
        if not len(part):
            return
        keys, offsets, sizes = (part[name].to_pylist() for name in SPAN)
        values = list(zip(*(part[name].to_pylist() for name in self.columns), strict=True))
        place = place_of(source.url)
        with source.opened() as reader:
            spans = reader.read(list(zip(offsets, sizes, strict=True)))
            for n, (row, span) in enumerate(zip(numbers.tolist(), spans, strict=True)):
                sample: Sample = {"__key__": keys[n], "__url__": place}
                sample.update(contents(span, keys[n], reader.name))
                # Last, so that no member of a stranger's tar stands for a column.
                sample.update(zip(self.columns, values[n] if values else (), strict=True))
                yield row, sample


def read_index(subset: Subset, columns: Sequence[str]) -> Index:
    """Return the index of a subset, and check its tars: all local ones, and the first remote one.

    Raises
    ------
    SelectionError
        If nothing is kept, or an asked column is unknown or lacks values.
    InputError
        If a tar is missing or has changed since it was scored.
    OutputError
        If there are no tars.
    """
    if not len(subset.selection):
        raise SelectionError("nothing is kept, so there is nothing to read", "loosen the selection")
    query = subset.selection.query
    if unknown := [name for name in columns if name not in query.columns]:
        raise SelectionError(*query.unknown_column(unknown[0]))
    subset.check()
    asked = tuple(dict.fromkeys(columns))
    table = pa.Table.from_batches(list(located(subset, asked))).combine_chunks()
    for name in asked:
        _check_values(table[name], name)
    files = table[FILE].to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
    rows = [range(*pair) for pair in pairwise(bounds)]
    shards = [(subset.source(int(files[part.start])), part) for part in rows]
    digest = hashlib.blake2b(repr(bounds).encode(), digest_size=16)
    for name in ("offset", "nbytes"):
        digest.update(table[name].to_numpy().tobytes())
    digest.update("\0".join(table["key"].to_pylist()).encode())
    kept = table.select(list(dict.fromkeys([*SPAN, *asked])))
    return Index(kept, asked, shards, digest.hexdigest())


def _check_values(values: pa.ChunkedArray, name: str) -> None:
    """Refuse a column that lacks values: as weights, they would end up in the loss as NaN."""
    lacking = pc.sum(pc.is_null(values, nan_is_null=True)).as_py()
    if lacking:
        raise SelectionError(
            f"column {name} has no value in {count(lacking, 'kept row')}",
            f'leave them out with `where` "{name} IS NOT NULL", or drop it from `columns`',
        )
