"""Find kept samples in tars that have moved, or that were never scored themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from clipdre.emitting.subset import Subset
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify, open_source
from clipdre.formats.folders.moved import find_moved, has_content_of
from clipdre.formats.tars.locate import Located, locate
from clipdre.formats.tars.places import shard_names
from clipdre.formats.tars.spans import Source
from clipdre.formats.uids import canonical_uid
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE, ROW
from clipdre.words import count


def relocated(selection: Selection, urls: Sequence[str]) -> Subset:
    """Return a subset that takes its samples from the tars `urls`.

    If `urls` hold the shards of all kept samples, by name and size, their byte spans are used as
    they are. Otherwise samples are searched for by uid, or by key if they have no uid.

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
        if all(manifest.shards[index].name in found for index in subset.files):
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
        rows: dict[str, list[int]] = {}
        unnamed = defaultdict[str, list[str]](list)  # key to shards, of rows without a uid
        for row, name in enumerate(
            kept.select(["uid", "key", "shard"]).to_pylist() if kept else ()
        ):
            uid, key = name["uid"], name["key"]
            rows.setdefault(canonical_uid(uid) if uid else key, []).append(row)
            if not uid:
                unnamed[key].append(name["shard"])
        self._parts, met = [], Counter[str]()
        for index, (shard, source) in enumerate(sources.items()):
            with open_source(source.url) as file:
                found = list(locate(file, lambda name: name in rows or canonical_uid(name) in rows))
            met.update(s.key for s in found if s.key in unnamed)
            taken = [(s, rows.get(canonical_uid(s.uid or "")) or rows.get(s.key)) for s in found]
            here = [(sample, left.pop(0)) for sample, left in taken if left]
            if here and kept is not None:
                table = kept.take(pa.array([row for _, row in here]))
                samples = [sample for sample, _ in here]
                self._parts.append(_moved(table, index, shard, samples))
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


def _moved(table: pa.Table, index: int, shard: str, samples: Sequence[Located]) -> pa.Table:
    """Return the rows of `table` with each sample's place in another tar."""
    columns = {
        FILE: [index] * len(samples),
        "shard": [shard] * len(samples),
        "offset": [sample.offset for sample in samples],
        "nbytes": [sample.nbytes for sample in samples],
    }
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(column, table.schema.field(at).type))
    return table
