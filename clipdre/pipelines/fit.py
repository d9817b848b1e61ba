"""The pool as a scorer's `fit` sees it: passes that run on the engine and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import safetensors
import safetensors.numpy
from torch import Tensor

from clipdre.core.modality import Modality
from clipdre.engines.base import Advance, Engine
from clipdre.errors import InputError
from clipdre.formats.files.storage import committed
from clipdre.formats.folders.columns import row_digests
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.models.encoder import Encoder
from clipdre.pipelines.rows import PoolReader, StoredRows
from clipdre.pipelines.targets import target_texts, target_tiles
from clipdre.progress import Progress
from clipdre.scorers.base import Arrays

STAMP = "stamp"
Part = Callable[[StoredRows], Arrays]
Merge = Callable[[Arrays, Arrays], Arrays]


@dataclass(frozen=True)
class ReduceWork:
    """Reduces one shard after another to arrays, and keeps them in files."""

    folder: ScoreFolder
    manifest: Manifest
    rows_at_once: int
    parts: Path
    part: Part
    merge: Merge

    def start(self, device: str, advance: Advance) -> Callable[[tuple[int, str]], None]:
        """See `clipdre.engines.base.Work`; an item is a shard's index and its part's stamp."""
        reader = PoolReader(self.folder, self.manifest, device, self.rows_at_once)

        def do(item: tuple[int, str]) -> None:
            shard, stamp = item
            merged: Arrays | None = None
            for rows in reader.rows(shard):
                found = self.part(rows)
                merged = found if merged is None else self.merge(merged, found)
                advance(len(rows), len(rows))
            _write_part(self.parts / f"{shard}.safetensors", merged or {}, stamp)

        return do


@dataclass
class FitPool:
    """The pool as `fit` sees it; see `clipdre.scorers.base.Pool`.

    It records what was asked for (`inputs`): together with the settings this decides what is
    learned, up to rounding, so it goes into the stamp of what is measured.
    """

    reader: PoolReader
    engine: Engine
    identity: Mapping[str, Any]
    parts: Path
    inputs: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.reader.manifest.rows

    @cached_property
    def _digests(self) -> list[str]:
        names = [shard.name for shard in self.reader.manifest.shards]
        return row_digests(self.reader.folder, names)

    @property
    def encoder(self) -> Encoder:
        """See `Pool`."""
        self.inputs.append(f"model {self.reader.manifest.model.identity}")
        return self.reader.encoder

    def sample(self, n: int) -> StoredRows:
        """See `Pool`."""
        self._record_pool()
        starts, shards = self.reader.starts, range(len(self.reader.manifest.shards))
        hashes = np.concatenate([self.reader.hashes(shard) for shard in shards])
        indices = np.sort(np.argsort(hashes, kind="stable")[:n])
        taken = []
        for shard, (low, high) in zip(
            shards, pairwise(np.searchsorted(indices, starts).tolist()), strict=True
        ):
            if high > low:
                rows = pa.array(indices[low:high] - starts[shard])
                taken.append((shard, self.reader.samples(shard).take(rows)))
        return StoredRows(self.reader, indices, taken)

    def reduce(self, step: str, part: Part, merge: Merge) -> Arrays:
        """See `Pool`; a shard's part that is there already is not computed again."""
        self._record_pool()
        parts = self.parts / step
        manifest = self.reader.manifest
        stamps = [digest_of([self.identity, self.inputs, step, rows]) for rows in self._digests]
        paths = [parts / f"{index}.safetensors" for index in range(len(stamps))]
        missing = [
            (index, stamp)
            for index, (path, stamp) in enumerate(zip(paths, stamps, strict=True))
            if _stamp_of(path) != stamp
        ]
        work = ReduceWork(
            self.reader.folder, manifest, self.reader.rows_at_once, parts, part, merge
        )
        with Progress(step, sum(manifest.shards[index].rows for index, _ in missing)) as progress:
            for _ in self.engine.run(work, missing, progress.advance):
                pass
        found: Arrays | None = None
        for path, shard in zip(paths, manifest.shards, strict=True):
            if shard.rows:
                arrays = safetensors.numpy.load_file(path)
                found = arrays if found is None else merge(found, arrays)
        return found or {}

    def has_column(self, name: str) -> bool:
        """See `Pool`; what the column holds is recorded, as it may be measured anew."""
        found = self.reader.has_column(name)
        shards = range(len(self.reader.manifest.shards)) if found else ()
        values = [digest_of(self.reader.column(shard, name).tolist()) for shard in shards]
        self.inputs.append(f"column {name} {digest_of(values) if found else 'missing'}")
        return found

    def texts(self, place: str) -> Iterator[str]:
        """See `Pool`; `InputError` if there are none."""
        digest, is_empty = hashlib.blake2b(digest_size=16), True
        at = len(self.inputs)
        self.inputs.append("texts, not read to their end")
        for text in target_texts(Path(place)):
            digest.update(text.encode() + b"\0")
            is_empty = False
            yield text
        if is_empty:
            raise InputError(f"{place} has no texts", "name a file or score folder that has some")
        self.inputs[at] = f"texts {digest.hexdigest()}"

    def target(self, place: str, modality: Modality) -> Iterator[Tensor]:
        """See `Pool`."""
        digest, count = hashlib.blake2b(digest_size=16), 0
        at = len(self.inputs)
        self.inputs.append("target, not read to its end")
        for tile in target_tiles(Path(place), modality):
            if tile.shape[1] != self.reader.manifest.model.embedding_dim:
                raise InputError(
                    f"`target` {place} has vectors of length {tile.shape[1]}, the pool of "
                    f"{self.reader.manifest.model.embedding_dim}",
                    "encode it with the same model",
                )
            digest.update(tile.numpy().tobytes())
            count += len(tile)
            yield tile
        if not count:
            raise InputError(f"`target` {place} has no vectors", "name a set with rows")
        self.inputs[at] = f"target {digest.hexdigest()}"

    def _record_pool(self) -> None:
        self.inputs.append(
            f"pool {digest_of([self.reader.manifest.model.identity, self._digests])}"
        )


def digest_of(value: object) -> str:
    """Return a digest of settings, records and strings."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def _write_part(path: Path, arrays: Arrays, stamp: str) -> None:
    with committed(path, durable=False) as temporary:
        safetensors.numpy.save_file(
            {name: np.asarray(value, order="C") for name, value in arrays.items()},
            temporary,
            {STAMP: stamp},
        )


def _stamp_of(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get(STAMP)
    except (OSError, safetensors.SafetensorError):
        return None
