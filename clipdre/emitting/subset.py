"""A selection as rows to write, with the source of each sample and a digest of the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from clipdre.errors import OutputError, named
from clipdre.formats.files.remote import is_remote
from clipdre.formats.files.storage import real
from clipdre.formats.folders.records import builtins
from clipdre.formats.folders.sources import source_of
from clipdre.formats.tars.spans import Source, place_of
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE
from clipdre.sql.row_set import seeded_hash


@dataclass(frozen=True)
class _Census:
    """Figures from one pass over the kept rows: of their hashes, distinct keys and files."""

    hashes: tuple[int, ...]
    keys: int
    files: list[int]


class Subset:
    """A selection from a score folder.

    Parameters
    ----------
    selection : Selection
    moved : mapping of str to Source
        Current tars of shards that have moved since they were scored, by shard name.

    Attributes
    ----------
    write_caption : bool
        Whether samples in tars get the captions of their rows.
    """

    def __init__(self, selection: Selection, moved: dict[str, Source] | None = None) -> None:
        self.selection = selection
        self.manifest = selection.query.manifest
        self.write_caption = False
        self._moved = moved or {}

    def batches(
        self, columns: Sequence[str] | None = None, shuffle_seed: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of the kept rows (None: all), in pool order or shuffled by a seed.

        Column ``file_index`` is the index of each row's `source`.
        """
        order = None if shuffle_seed is None else f"{seeded_hash(shuffle_seed)}, key_hash"
        for batch in self.selection.rows.batches(columns, order):
            yield self._placed(batch)

    def _placed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows with the places of tars that have moved."""
        if not self._moved or "path" not in batch.schema.names:
            return batch
        shards = self.manifest.shards
        urls = [self._moved[s.name].url if s.name in self._moved else s.url for s in shards]
        paths = pa.array(map(place_of, urls), pa.string()).take(batch[FILE])
        return batch.set_column(batch.schema.get_field_index("path"), "path", paths)

    def source(self, index: int) -> Source:
        """Return the tar of a ``file_index``.

        Raises
        ------
        OutputError
            If the scores were made from embeddings, without tars.
        InputError
            If the tar is where a stranger's score folder must not lead.
        """
        record = self.manifest.shards[index]
        if record.name in self._moved:
            return self._moved[record.name]
        if "embeddings" in self.manifest.settings["read"]:
            raise OutputError(
                "these scores were made from embeddings, so there are no tars to copy samples from",
                "set `format` to uids, keys or parquet, or pass the tars as `shards`",
            )
        return source_of(record)

    def sources(self, rows: pa.Table) -> dict[int, Source]:
        """Return the tars of rows by ``file_index``; errors as of `source`."""
        return {index: self.source(index) for index in rows[FILE].unique().to_pylist()}

    def inputs(self) -> Iterator[str]:
        """Yield the paths and URLs of all that the selection was made from, and may be again."""
        yield from (shard.url for shard in self.manifest.shards)
        yield from (source.url for source in self._moved.values())
        yield from map(str, self.selection.query.joined)

    def check(self) -> None:
        """Check the tars of the kept rows: all local ones, and the first remote one.

        Raises
        ------
        InputError
            If a tar is missing or has changed since it was scored.
        OutputError
            If there are no tars.
        """
        sources = self.tars
        remote = [source for source in sources if is_remote(source.url)]
        for source in sources:
            if source in remote[:1] or not is_remote(source.url):
                source.check()

    @cached_property
    def collisions(self) -> dict[str, int]:
        """Keys shared by several kept samples: 1, or 2 if a shard holds the key twice."""
        if self._census.keys == len(self.selection):
            return {}
        found = self.selection.rows.wide().all(
            f"SELECT key, 1 + (count(*) > count(DISTINCT {FILE}))::INT FROM {{rows}} "
            "GROUP BY key HAVING count(*) > 1"
        )
        return dict(found)

    @property
    def files(self) -> list[int]:
        """Indices of the files of scores that the kept rows are from."""
        return self._census.files

    @property
    def tars(self) -> list[Source]:
        """The tars that samples are taken from; errors as of `source`."""
        return [self.source(index) for index in sorted(self.files)]

    @property
    def renamed(self) -> int:
        """Number of kept samples that share their key, and get a unique one in tars."""
        return len(self.selection) - (self._census.keys - len(self.collisions))

    @property
    def digest(self) -> str:
        """Digest of the kept rows and their scores, however the rule is worded."""
        model, reference = self.manifest.model, self.manifest.reference
        assert reference is not None  # the manifest is complete
        content = f"{model.digest} {reference.digest} {self._census.hashes}"
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def _census(self) -> _Census:
        *hashes, keys, files = self.selection.rows.wide().one(
            "count(*)",
            "bit_xor(key_hash)",
            "sum(key_hash::HUGEINT)",
            "sum(xor(key_hash, 1)::HUGEINT)",
            "count(DISTINCT key)",
            f"list(DISTINCT {FILE})",
        )
        return _Census(tuple(hashes), keys, files or [])

    def summary(self) -> dict[str, Any]:
        """Return a record of the rule, its counts, the scores and the digest."""
        selection, model = self.selection, self.manifest.model
        return {
            "clipdre_version": self.manifest.clipdre_version,
            "rule": asdict(selection.rule),
            "steps": [asdict(step) for step in selection.steps],
            "pool": selection.pool,
            "kept": len(selection),
            "scores": named(str(real(selection.query.folder.path))),
            "joined": [asdict(join) for join in selection.query.joins],
            "model": {"name": model.name, "pretrained": model.pretrained, "digest": model.digest},
            "reference": builtins(self.manifest.reference),
            "digest": self.digest,
        }
