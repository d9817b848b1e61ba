"""Find kept samples in tars that have moved, or that were never scored themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from clipdre.config import IMAGE_SUFFIXES
from clipdre.emitting.subset import Subset
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify, open_source
from clipdre.formats.folders.columns import CAPTION_SOURCE
from clipdre.formats.folders.moved import find_moved, has_content_of
from clipdre.formats.tars.locate import Located, locate
from clipdre.formats.tars.places import shard_names
from clipdre.formats.tars.spans import Source, place_of
from clipdre.formats.uids import canonical_uid
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.words import count


def relocated(selection: Selection, urls: Sequence[str], *, partial: bool = False) -> Subset:
    """Return a subset that takes its samples from the tars `urls`.

    If `urls` hold the shards of all kept samples, by name and size, their byte spans are used as
    they are; with `partial`, some of these shards are enough, and reading from the others fails.
    Otherwise samples are searched for by uid, or by key if they have no uid.

    Raises
    ------
    InputError
        If a kept sample is in none of the tars, or has no uid and a key that others share.
    """
    sources = {url: Source(url, identify(url).nbytes, None) for url in urls}
    manifest = selection.query.manifest
    if manifest.has_tars:
        found = find_moved(
            manifest.shards, urls, lambda s, url: has_content_of(s, url, sources[url].nbytes)
        )
        subset = Subset(selection, {name: sources[url] for name, url in found.items()})
        here = [manifest.shards[index].name in found for index in subset.files]
        if all(here) or (partial and any(here)):
            return subset
    names = dict(zip(urls, shard_names(urls), strict=True))
    return _SearchedSubset(selection, {names[url]: source for url, source in sources.items()})


class _SearchedSubset(Subset):
    """Samples found in other tars, in the order of these tars."""

    def __init__(self, selection: Selection, sources: Mapping[str, Source]) -> None:
        super().__init__(selection)
        self._sources = list(sources.values())
        batches = list(selection.rows.batches())
        kept = pa.Table.from_batches(batches) if batches else None
        # Exact duplicates share a uid, and each of them must be found.
        rows: dict[str, list[list[int]]] = {}
        unnamed = defaultdict[str, list[str]](list)  # key to shards, of samples without a uid
        for (uid, key, shard), same in _samples(kept) if kept else ():
            rows.setdefault(canonical_uid(uid) if uid else key, []).append(same)
            if not uid:
                unnamed[key].append(shard)

        def wanted(name: str) -> bool:
            return name in rows or canonical_uid(name) in rows

        suffixes = self.manifest.settings["read"].get("image_suffixes", IMAGE_SUFFIXES)
        self._parts, met = [], Counter[str]()
        for index, (shard, source) in enumerate(sources.items()):
            with open_source(source.url) as file:
                found = list(locate(file, wanted, suffixes))
            met.update(s.key for s in found if s.key in unnamed)
            taken = [(s, rows.get(canonical_uid(s.uid or "")) or rows.get(s.key)) for s in found]
            here = [(sample, row) for sample, left in taken if left for row in left.pop(0)]
            if here and kept is not None:
                table = kept.take(pa.array([row for _, row in here]))
                samples = [sample for sample, _ in here]
                self._parts.append(_moved(table, (index, shard, source.url), samples))
        _check_alike(unnamed, met)
        lost = [name for name, left in rows.items() for _ in left]
        if lost:
            raise InputError(
                f"{len(lost):,} of {count(len(selection), 'kept sample')} are in none of the "
                f"`shards` (for instance {lost[0]})",
                "pass all tars of the pool",
            )

    def batches(
        self, columns: Sequence[str] | None = None, shuffle_seed: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches as `Subset.batches` does, but in the order of the tars."""
        table = pa.concat_tables(self._parts)
        if columns is not None:
            table = table.select([FILE, ROW, *columns])
        if shuffle_seed is not None:
            table = table.take(
                pa.array(np.random.default_rng(shuffle_seed).permutation(len(table)))
            )
        yield from table.combine_chunks().to_batches()

    @property
    def tars(self) -> list[Source]:
        """The tars that were searched."""
        return self._sources

    def check(self) -> None:
        """Do nothing: the tars have just been read."""

    def source(self, index: int) -> Source:
        """Return the searched tar of that index."""
        return self._sources[index]


def _check_alike(unnamed: Mapping[str, Sequence[str]], met: Mapping[str, int]) -> None:
    """Refuse keys that do not say which sample is meant: those of several sources often agree."""
    alike = [k for k, shards in unnamed.items() if len(set(shards)) > 1 or met[k] > len(shards)]
    if alike:
        raise InputError(
            f"{count(len(alike), 'kept key')} are those of several samples in the pool or in the "
            f"`shards`, and without a uid (for instance {alike[0]})",
            "pass the scored tars themselves under their own names, or score these ones",
        )


def _samples(kept: pa.Table) -> Iterator[tuple[tuple[str | None, str, str], list[int]]]:
    """Yield uid, key and shard of each sample and its rows: several, if it has several captions."""
    several = CAPTION_SOURCE.name in kept.column_names
    place = (FILE, "offset") if several else (FILE, ROW)
    places, names = (
        list(zip(*(kept[name].to_pylist() for name in columns), strict=True))
        for columns in (place, ("uid", "key", "shard"))
    )
    for _, rows in groupby(range(len(kept)), places.__getitem__):
        same = list(rows)
        yield names[same[0]], same


def _moved(table: pa.Table, place: tuple[int, str, str], samples: Sequence[Located]) -> pa.Table:
    """Return the rows of `table` with each sample's place in another tar."""
    index, shard, url = place
    spans = [sample.image_span or (None, None) for sample in samples]
    columns = {
        FILE: [index] * len(samples),
        "shard": [shard] * len(samples),
        "path": [place_of(url)] * len(samples),
        "offset": [sample.offset for sample in samples],
        "nbytes": [sample.nbytes for sample in samples],
        "image_offset": [offset for offset, _ in spans],
        "image_nbytes": [nbytes for _, nbytes in spans],
    }
    for name in sorted(columns.keys() & set(table.column_names)):  # earlier versions lack some
        at, column = table.schema.get_field_index(name), columns[name]
        table = table.set_column(at, name, pa.array(column, table.schema.field(at).type))
    return table
