"""A compact index of a subset: where its samples are, and their columns. It needs no database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.formats.tars.spans import Source, contents, gap_within, place_of

SPAN = ("key", "offset", "nbytes")
# Share of the kept bytes that is read on top of them, in gaps, to send fewer requests.
EXTRA = 0.1
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
        places = list(zip(offsets, sizes, strict=True))
        with source.opened(gap_within(places, EXTRA)) as reader:
            spans = reader.read(places)
            for n, (row, span) in enumerate(zip(numbers.tolist(), spans, strict=True)):
                sample: Sample = {"__key__": keys[n], "__url__": place}
                sample.update(contents(span, keys[n], reader.name))
                # Last, so that no member of a stranger's tar stands for a column.
                sample.update(zip(self.columns, values[n] if values else (), strict=True))
                yield row, sample
