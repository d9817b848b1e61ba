"""A selection as rows to write: where each sample lies, and what names the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from clipdre.errors import OutputError
from clipdre.formats.files.remote import is_remote
from clipdre.formats.folders.records import builtins
from clipdre.formats.tars.spans import Source
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE
from clipdre.sql.row_set import seeded_hash

# 0: the key is the sample's alone; 1: other shards have it too; 2: its own shard has it twice.
COLLISION = "collision"


@dataclass(frozen=True)
class _Census:
    """What one pass over the kept rows tells: of their hashes, distinct keys, files."""

    hashes: tuple[int, ...]
    keys: int
    files: list[int]


class Subset:
    """A selection of a score folder.

    Parameters
    ----------
    selection : Selection
    moved : mapping of str to Source
        Where the tars of shards lie now, by shard name, when not where they were scored.
    """

    def __init__(self, selection: Selection, moved: dict[str, Source] | None = None) -> None:
        self.selection = selection
        self.manifest = selection.query.manifest
        self._moved = moved or {}

    def batches(
        self, columns: Sequence[str] | None = None, shuffle_seed: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The kept rows' columns (None: all), in pool order or shuffled by a seed.

        ``file_index`` says the source of each row.
        """
        order = None if shuffle_seed is None else f"{seeded_hash(shuffle_seed)}, key_hash"
        yield from self.selection.rows.batches(columns, order)

    def source(self, index: int) -> Source:
        """The tar behind a ``file_index``; `OutputError` where there is none."""
        record = self.manifest.shards[index]
        if record.name in self._moved:
            return self._moved[record.name]
        if "embeddings" in self.manifest.settings["read"]:
            raise OutputError(
                "these scores were made from embeddings, there are no tars behind them: "
                "give --format uids, keys or parquet, or point --shards at the tars"
            )
        return Source(record.url, record.nbytes, record.modified)

    def check(self) -> None:
        """Find the tars behind the kept rows: all local ones, the first of the others.

        Raises
        ------
        InputError
            When one is gone or has changed since it was scored.
        OutputError
            When there are none.
        """
        sources = [self.source(index) for index in sorted(self._census.files)]
        remote = [source for source in sources if is_remote(source.url)]
        for source in sources:
            if source in remote[:1] or not is_remote(source.url):
                source.check()

    def collisions(self) -> dict[str, int]:
        """Keys that more than one kept sample has: 1, or 2 where one shard has it twice."""
        if self._census.keys == len(self.selection):
            return {}
        found = self.selection.rows.wide().all(
            f"SELECT key, 1 + (count(*) > count(DISTINCT {FILE}))::INT FROM {{rows}} "
            "GROUP BY key HAVING count(*) > 1"
        )
        return dict(found)

    @property
    def digest(self) -> str:
        """Names the subset: the same rows of the same scores have the same."""
        model, reference = self.manifest.model, self.manifest.reference
        assert reference is not None  # the manifest is complete
        said = f"{model.digest} {reference.digest} {self._census.hashes}"
        return hashlib.sha256(said.encode()).hexdigest()

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
        """What was asked and kept, by which rule, from what; the digest names the subset."""
        selection, model = self.selection, self.manifest.model
        return {
            "clipdre_version": self.manifest.clipdre_version,
            "rule": asdict(selection.rule),
            "steps": [asdict(step) for step in selection.steps],
            "pool": selection.pool,
            "kept": len(selection),
            "scores": str(selection.query.folder.path.resolve()),
            "joined": [str(path) for path in selection.query.joined],
            "model": {"name": model.name, "pretrained": model.pretrained, "digest": model.digest},
            "reference": builtins(self.manifest.reference),
            "digest": self.digest,
        }
