"""What scorers are given: rows of a score folder, and the pool as `fit` sees it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from clipdre.config import EncodeConfig, Precision, ReadConfig
from clipdre.core.density_ratio import unit
from clipdre.core.modality import Modality
from clipdre.engines.base import Advance, Engine
from clipdre.errors import InputError, ModelError, ScoresError
from clipdre.formats.files.storage import committed
from clipdre.formats.folders.columns import row_digests
from clipdre.formats.folders.embeddings import StoredPool, embedding_files, map_array
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest
from clipdre.formats.folders.precomputed import UnreadableError, find_layout
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.spans import Source, checked
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder
from clipdre.progress import Progress
from clipdre.scorers.base import Arrays

ROWS_AT_ONCE = 8192
SAMPLE_COLUMNS = ["key", "offset", "nbytes", "caption", "key_hash"]
STAMP = "stamp"
Part = Callable[["StoredRows"], Arrays]
Merge = Callable[[Arrays, Arrays], Arrays]


@dataclass(frozen=True)
class PoolReader:
    """Reads a score folder's rows in one worker; opens only what is asked for."""

    folder: ScoreFolder
    manifest: Manifest
    device: str
    rows_at_once: int = ROWS_AT_ONCE

    @cached_property
    def pool(self) -> StoredPool:
        """Stored embeddings of all rows."""
        if not self.folder.embeddings.exists():
            raise ScoresError(
                f"{self.folder.path} keeps no embeddings",
                "score again without `discard_embeddings`",
            )
        return StoredPool(embedding_files(self.folder.embeddings, len(self.manifest.shards)))

    @cached_property
    def starts(self) -> list[int]:
        """Index of each shard's first row, and the number of rows."""
        counts = [shard.rows for shard in self.manifest.shards]
        return [0, *np.cumsum(counts).tolist()]

    @cached_property
    def encoder(self) -> Encoder:
        """The model that made the scores."""
        return _same_encoder(self.manifest, self.device)

    def samples(self, shard: int) -> pa.Table:
        """Read the sample columns of one shard's rows."""
        path = self.folder.scores(self.manifest.shards[shard].name)
        return pq.read_table(path, columns=SAMPLE_COLUMNS)

    def rows(self, shard: int) -> Iterator[StoredRows]:
        """Yield one shard's rows, at most `rows_at_once` together."""
        size = self.rows_at_once
        first, stop = self.starts[shard], self.starts[shard + 1]
        table = self.samples(shard) if stop > first else None
        for start in range(first, stop, size):
            indices = np.arange(start, min(start + size, stop))
            assert table is not None
            yield StoredRows(self, indices, [(shard, table.slice(start - first, len(indices)))])


@dataclass(frozen=True)
class StoredRows:
    """Rows of a score folder; see `clipdre.scorers.base.Rows`.

    Attributes
    ----------
    indices : int64 array of shape (n,)
        Ascending; consecutive unless the rows are a sample.
    tables : list of (shard index, table)
        Their sample columns, shard by shard.
    """

    reader: PoolReader
    indices: npt.NDArray[np.int64]
    tables: list[tuple[int, pa.Table]]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def start(self) -> int:
        """See `Rows`."""
        return int(self.indices[0])

    @property
    def captions(self) -> list[str]:
        """See `Rows`."""
        return [
            caption or "" for _, table in self.tables for caption in table["caption"].to_pylist()
        ]

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """See `Rows`."""
        return np.concatenate([table["key_hash"].to_numpy() for _, table in self.tables])

    def vectors(self, modality: Modality) -> Tensor:
        """See `Rows`."""
        return self.reader.pool.take(modality, self.indices)

    @property
    def encoder(self) -> Encoder:
        """See `Rows`."""
        return self.reader.encoder

    def samples(self) -> Iterator[Sample]:
        """See `Rows`; `InputError` if a shard is gone or has changed since it was scored."""
        manifest = self.reader.manifest
        if not manifest.has_tars:
            raise InputError(
                "these scores were made from embeddings", "score the shards themselves"
            )
        read = msgspec.convert(manifest.settings["read"], ReadConfig)
        for index, table in self.tables:
            shard = manifest.shards[index]
            keys = table["key"].to_pylist()
            spans = list(zip(table["offset"].to_pylist(), table["nbytes"].to_pylist(), strict=True))
            with Source(shard.url, shard.nbytes, shard.modified).opened() as source:
                for key, span in zip(keys, source.read(spans), strict=True):
                    sample = next(iter_samples(io.BytesIO(checked(span, key, source.name)), read))
                    if not isinstance(sample, Sample):
                        raise InputError(
                            f"{source.name} has changed since it was scored", "score it again"
                        )
                    yield sample


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
        self.inputs.append(f"model {self.reader.manifest.model.digest}")
        return self.reader.encoder

    def sample(self, n: int) -> StoredRows:
        """See `Pool`."""
        self._record_pool()
        shards = range(len(self.reader.manifest.shards))
        tables = [self.reader.samples(shard) for shard in shards]
        hashes = np.concatenate([table["key_hash"].to_numpy() for table in tables])
        indices = np.sort(np.argsort(hashes, kind="stable")[:n])
        starts = self.reader.starts
        taken = []
        for shard, table in zip(shards, tables, strict=True):
            here = indices[(indices >= starts[shard]) & (indices < starts[shard + 1])]
            taken.append((shard, table.take(pa.array(here - starts[shard]))))
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

    def target(self, place: str, modality: Modality) -> Iterator[Tensor]:
        """See `Pool`."""
        digest, count = hashlib.blake2b(digest_size=16), 0
        at = len(self.inputs)
        self.inputs.append("target, not read to its end")
        for tile in _target_tiles(Path(place), modality):
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
        self.inputs.append(f"pool {digest_of([self.reader.manifest.model.digest, self._digests])}")


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


def _target_tiles(place: Path, modality: Modality) -> Iterator[Tensor]:
    """Yield unit vectors of a score folder, a folder of embeddings, or a .npy file."""
    if place.suffix == ".npy":
        try:
            yield from _unit_tiles(map_array(place), place)
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read `target` {place}: {error}", "give a .npy of shape (n, d)"
            ) from error
        return
    if (place / "manifest.json").exists():
        count = len(read_complete_manifest(place).shards)
        pool = StoredPool(embedding_files(ScoreFolder(place).embeddings, count))
        for _, tile in pool.tiles(modality, ROWS_AT_ONCE):
            yield tile
        return
    layout = find_layout(place, "l14")
    for path in layout.files():
        try:
            images, texts, _ = layout.read(path)
        except UnreadableError as error:
            raise InputError(
                f"cannot read `target` {path}: {error}", "remove it, or copy it again"
            ) from error
        yield from _unit_tiles(images if modality is Modality.IMAGE else texts, path)


def _unit_tiles(vectors: npt.NDArray[Any], place: Path) -> Iterator[Tensor]:
    if vectors.ndim != 2:
        raise InputError(
            f"`target` {place} has shape {vectors.shape}", "give vectors of shape (n, d)"
        )
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        tile = torch.from_numpy(vectors[start : start + ROWS_AT_ONCE].astype(np.float32))
        rows = unit(tile)
        if not torch.isfinite(rows).all():
            raise InputError(f"`target` {place} has NaN, infinite or zero vectors", "remove them")
        yield rows


def _same_encoder(manifest: Manifest, device: str) -> Encoder:
    model = manifest.model
    if not manifest.has_tars:
        raise ModelError(
            "these scores were made from embeddings, so there is no model to encode with",
            "score the shards themselves",
        )
    config = EncodeConfig(model.name, model.pretrained, device, Precision(model.precision))
    encoder = load_encoder(config)
    if encoder.record.digest != model.digest:
        raise ModelError(
            f"the weights of {model.name} ({model.pretrained}) are not those that made the scores",
            "score again, or bring the old checkpoint back",
        )
    return encoder
