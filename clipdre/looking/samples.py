"""The samples that a page shows: their captions, scores and thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from clipdre.errors import ClipdreError
from clipdre.formats.tars.images import decode_image
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.spans import checked
from clipdre.looking.edges import Axis, row_starts
from clipdre.looking.points import Places
from clipdre.looking.text import plain
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, POOL, ROW, quoted
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from clipdre.words import count

SHARDS_AT_ONCE = 8
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
    """WebP images as data URLs by place in the pool, and why others are missing, if any are."""

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
    query: ScoreQuery, places: Places, side: int, shards: Sequence[str] | None = None
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
    """
    if not len(places):
        return Thumbnails({}, "")
    selection = _selection(query, places)
    try:
        subset = relocated(selection, shards, partial=True) if shards else Subset(selection)
        rows = pa.Table.from_batches(list(subset.batches(["key", "offset", "nbytes", "key_hash"])))
    except ClipdreError as error:
        return Thumbnails({}, str(error))
    parts = [list(part) for _, part in groupby(rows.to_pylist(), itemgetter(FILE))]
    read = query.manifest.reading
    alike: dict[int, list[int]] = {}  # rows of several captions share a sample
    hashes = selection.rows.all(f"SELECT key_hash FROM {{rows}} ORDER BY {FILE}, {ROW}")
    for (key_hash,), place in zip(hashes, places.tolist(), strict=True):
        alike.setdefault(key_hash, []).append(place)
    urls, problems = dict[int, str](), list[str]()

    def work(part: Sequence[dict[str, int]]) -> list[tuple[int, str]]:
        return list(_shard_thumbnails(subset, part, read, side))

    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        for future in [threads.submit(work, part) for part in parts]:
            try:
                for key_hash, url in future.result():
                    urls.update(dict.fromkeys(alike[key_hash], url))
            except ClipdreError as error:
                problems.append(str(error))
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


def _shard_thumbnails(
    subset: Subset, rows: Sequence[dict[str, int]], read: ReadConfig, side: int
) -> Iterator[tuple[int, str]]:
    """Yield the key hash and the thumbnail of each row of a shard whose image can be read."""
    with subset.source(rows[0][FILE]).opened() as source:
        spans = source.read([(row["offset"], row["nbytes"]) for row in rows])
        for row, span in zip(rows, spans, strict=True):
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
