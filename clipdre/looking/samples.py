"""The samples that a page shows: their captions, scores and thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from clipdre.config import ReadConfig
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.engines.base import Advance, Engine, silent
from clipdre.engines.local import Threads
from clipdre.errors import ClipdreError
from clipdre.formats.tars.images import decode_image
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.spans import Source, checked
from clipdre.looking.edges import Axis, row_starts
from clipdre.looking.points import Places
from clipdre.looking.text import plain
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, POOL, ROW, quoted
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from clipdre.words import count

# Threads that read shards: most of it is waiting for files.
HERE = Threads(8)
QUALITY = 60
TEXTS = ("shard", "key", "uid", "caption")


@dataclass(frozen=True)
class Details:
    """Rows of the pool, in pool order.

    Attributes
    ----------
    places : int64 array of shape (n,)
    texts : dict
        Those columns of `TEXTS` that the scores have, each as n texts that a page can show.
    values : float64 array of shape (n, axes)
        NaN if missing.
    """

    places: Places
    texts: dict[str, list[str]]
    values: npt.NDArray[np.float64]


class Thumbnails(NamedTuple):
    """WebP images as data URLs, by place in the pool or by key hash, and why others are missing."""

    urls: dict[int, str]
    problem: str


def details(rows: RowSet, axes: Sequence[Axis], places: Places) -> Details:
    """Read `places` (distinct, ascending) of the pool's `rows`, which have a column per axis."""
    query = rows.query
    texts = [name for name in TEXTS if name in query.columns]
    columns = [*(f"{quoted(name)}::VARCHAR" for name in texts), *(axis.name for axis in axes)]
    found = query.fetchall(
        f"SELECT {', '.join(columns)} FROM {rows.name} "
        f"SEMI JOIN {listed_rows(query, places)} USING ({FILE}, {ROW}) ORDER BY {FILE}, {ROW}"
    )
    parts = list(zip(*found, strict=True)) or [()] * len(columns)
    values = [[np.nan if v is None else v for v in part] for part in parts[len(texts) :]]
    return Details(
        places,
        {name: list(map(plain, part)) for name, part in zip(texts, parts, strict=False)},
        np.array(values, np.float64).reshape(len(axes), len(places)).T,
    )


def fulfilling(rows: RowSet, places: Places) -> npt.NDArray[np.bool_]:
    """Return which of the `places` fulfil the condition that is the only expression of `rows`."""
    query, (condition,) = rows.query, rows.expressions
    found = query.fetchall(
        f"SELECT {FILE}, {ROW} FROM {rows.name} "
        f"SEMI JOIN {listed_rows(query, places)} USING ({FILE}, {ROW}) WHERE {condition.name}",
        rows.expressions,
    )
    starts = row_starts(query.manifest)
    return np.isin(places, [starts[file] + row for file, row in found])


def thumbnails(
    query: ScoreQuery,
    places: Places,
    side: int,
    shards: Sequence[str] | None = None,
    engine: Engine = HERE,
) -> Thumbnails:
    """Read images of the pool and make them small.

    Parameters
    ----------
    places : int64 array
        Distinct and ascending.
    side : int
        Longest side in pixels.
    shards : sequence of str, optional
        Tars to take the samples from, if they have moved.
    engine : Engine
        Reads the tars.
    """
    if not len(places):
        return Thumbnails({}, "")
    selection = _selection(query, places)
    try:
        subset = relocated(selection, shards, partial=True) if shards else Subset(selection)
        rows = pa.Table.from_batches(list(subset.batches(["key", "offset", "nbytes", "key_hash"])))
    except ClipdreError as error:
        return Thumbnails({}, str(error))
    alike: dict[int, list[int]] = {}  # rows of several captions share a sample
    hashes = selection.rows.all(f"SELECT key_hash FROM {{rows}} ORDER BY {FILE}, {ROW}")
    for (key_hash,), place in zip(hashes, places.tolist(), strict=True):
        alike.setdefault(key_hash, []).append(place)
    urls, problems, parts = dict[int, str](), list[str](), list[_Part]()
    for index, part in groupby(rows.to_pylist(), itemgetter(FILE)):
        try:
            parts.append(_Part(subset.source(index), list(part)))
        except ClipdreError as error:
            problems.append(str(error))
    work = _ThumbnailWork(query.manifest.reading, side)
    for _, found in sorted(engine.run(work, parts, silent), key=itemgetter(0)):
        for key_hash, url in found.urls.items():
            urls.update(dict.fromkeys(alike[key_hash], url))
        problems += [found.problem] if found.problem else []
    if not problems and len(urls) < len(places):
        missing = count(len(places) - len(urls), "image")
        problems.append(f"{missing} cannot be read: the tars have changed since they were scored")
    problem = problems[0] if problems else ""
    if len(problems) > 1:
        problem = f"{problem} (and {len(problems) - 1:,} more shards)"
    return Thumbnails(urls, problem)


def thumbnail(data: bytes, read: ReadConfig, side: int) -> str:
    """Return an image as a small WebP in a data URL; `ImageError` if it cannot be read."""
    image = decode_image(
        data, max_pixels=read.max_pixels, max_aspect_ratio=read.max_aspect_ratio, smallest=side
    ).image
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class _Part:
    """Rows of a shard, and its tar."""

    source: Source
    rows: Sequence[dict[str, int]]


@dataclass(frozen=True)
class _ThumbnailWork:
    """Makes the thumbnails of one shard after another, by key hash."""

    read: ReadConfig
    side: int

    def start(self, device: str, advance: Advance) -> Callable[[_Part], Thumbnails]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`."""

        def do(part: _Part) -> Thumbnails:
            try:
                return Thumbnails(dict(_shard_thumbnails(part, self.read, self.side)), "")
            except ClipdreError as error:
                return Thumbnails({}, str(error))

        return do


def _shard_thumbnails(part: _Part, read: ReadConfig, side: int) -> Iterator[tuple[int, str]]:
    """Yield the key hash and the thumbnail of each row of a shard whose image can be read."""
    with part.source.opened() as source:
        spans = source.read([(row["offset"], row["nbytes"]) for row in part.rows])
        for row, span in zip(part.rows, spans, strict=True):
            found = iter_samples(io.BytesIO(checked(span, str(row["key"]), source.name)), read)
            for sample in found:
                if isinstance(sample, Sample):
                    with suppress(ImageError):  # counted as missing
                        yield row["key_hash"], thumbnail(sample.image, read, side)
                    break


def _selection(query: ScoreQuery, places: Places) -> Selection:
    """Return rows of the pool as a selection, as which they find their tars."""
    table = query.table(
        f"SELECT {FILE}, {ROW}, key_hash FROM {POOL} SEMI JOIN {listed_rows(query, places)} "
        f"USING ({FILE}, {ROW})"
    )
    step = Step(where="shown")
    kept = (Counted(step, query.manifest.rows, len(places), 0, len(places), len(places)),)
    return Selection(Rule((step,)), RowSet(query, table, narrow=True), query.manifest.rows, kept)


def listed_rows(query: ScoreQuery, places: Places) -> str:
    """Return a table of the files and rows of places."""
    starts = row_starts(query.manifest)
    files = np.searchsorted(starts, places, side="right") - 1
    name = query.new_name()
    query.register(name, pa.table({FILE: files, ROW: places - starts[files]}))
    return name
