"""Rows of a score folder, as scorers are given them."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from torch import Tensor

from clipdre.config import EncodeConfig, MeasureConfig, Precision
from clipdre.core.modality import Modality
from clipdre.cpus import usable_cpus
from clipdre.encoding.decode import model_image
from clipdre.errors import InputError, ModelError, ScoresError
from clipdre.formats.files.parquet import SCORE_AGAIN, list_columns, read_table
from clipdre.formats.folders.columns import (
    ColumnFolder,
    column_folders,
    is_current,
    row_digests,
)
from clipdre.formats.folders.embeddings import StoredPool, pool_of
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import MeasureRecord
from clipdre.formats.folders.sources import source_of
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.spans import CHANGED, checked
from clipdre.models.encoder import Encoder, OpenClipEncoder
from clipdre.models.load import load_encoder

T = TypeVar("T")
SAMPLE_COLUMNS = ["key", "offset", "nbytes", "caption", "key_hash"]


@dataclass(frozen=True)
class PoolReader:
    """Reads a score folder's rows in one worker; opens only what is asked for."""

    folder: ScoreFolder
    manifest: Manifest
    device: str
    rows_at_once: int = MeasureConfig.rows_at_once

    @cached_property
    def pool(self) -> StoredPool:
        """Stored embeddings of all rows, scaled to unit length."""
        return pool_of(self.folder, self.manifest).directions

    @cached_property
    def starts(self) -> list[int]:
        """Index of each shard's first row, and the number of rows."""
        return self.manifest.starts

    @cached_property
    def encoder(self) -> Encoder:
        """The model that made the scores, with unit vectors."""
        return _same_encoder(self.manifest, self.device).of_directions()

    def samples(self, shard: int) -> pa.Table:
        """Read the sample columns of one shard's rows."""
        return self._read(shard, SAMPLE_COLUMNS)

    @cached_property
    def all_hashes(self) -> npt.NDArray[np.uint64]:
        """Key hashes of all rows, shape (rows,)."""
        return self.whole_column("key_hash")

    def whole_column(self, name: str) -> npt.NDArray[Any]:
        """Read a column of the score files over all rows, shape (rows,)."""
        shards = range(len(self.manifest.shards))
        return np.concatenate([self._read(n, [name])[name].to_numpy() for n in shards])

    def has_column(self, name: str) -> bool:
        """Whether there is a column, scored or measured; `ScoresError` if it is out of date."""
        columns = self._measured.get(name)
        if columns is None:
            return name in list_columns(self.folder.scores(self.manifest.shards[0].name))
        record = columns.record()
        if record is None or not self.is_current(columns, record):
            problem = f"column {name} was measured for another state of this pool"
            cure = f"run the same 'clipdre measure' again: {columns.name}"
            raise ScoresError(problem, cure)
        return True

    def is_current(self, columns: ColumnFolder, record: MeasureRecord) -> bool:
        """Whether measured columns are those of this state of the pool."""
        digests = row_digests(self.folder, self.manifest.shards)
        return is_current(columns, record, self.manifest, digests)

    def column(self, shard: int, name: str) -> npt.NDArray[Any]:
        """Read a column of one shard's rows, scored or measured; null is None or NaN."""
        columns = self._measured.get(name)
        record = self.manifest.shards[shard]
        table = (
            self._read(shard, [name])
            if columns is None
            else read_table(columns.file(record.name), [name])
        )
        values: npt.NDArray[Any] = table[name].to_numpy()
        return values

    @cached_property
    def _measured(self) -> dict[str, ColumnFolder]:
        """Where each measured column is."""
        return {
            column.name: columns
            for columns in column_folders(self.folder)
            if (record := columns.record()) is not None
            for column in record.columns
        }

    def _read(self, shard: int, columns: list[str]) -> pa.Table:
        return read_table(self.folder.checked_scores(self.manifest.shards[shard]), columns)

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

    def column(self, name: str) -> npt.NDArray[Any]:
        """See `Rows`."""
        starts = self.reader.starts
        parts = []
        for shard, _ in self.tables:
            low, high = np.searchsorted(self.indices, starts[shard : shard + 2])
            parts.append(self.reader.column(shard, name)[self.indices[low:high] - starts[shard]])
        return np.concatenate(parts)

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
        for index, table in self.tables:
            shard = manifest.shards[index]
            names = zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True)
            one = len(manifest.reading.captions) == 1
            spans = list(zip(table["offset"].to_pylist(), table["nbytes"].to_pylist(), strict=True))
            with source_of(shard).opened() as source:
                for (key, caption), span in zip(names, source.read(spans), strict=True):
                    found = iter_samples(
                        io.BytesIO(checked(span, key, source.name)), manifest.reading
                    )
                    samples = [
                        sample
                        for sample in found
                        if isinstance(sample, Sample) and (one or sample.caption == caption)
                    ]
                    if not samples:
                        raise InputError(f"{source.name} has changed since it was scored", CHANGED)
                    yield samples[0]

    def images(self, each: Callable[[Image.Image], T]) -> Iterator[T | str]:
        """See `Rows`."""
        threads = usable_cpus()
        waiting = deque[Future[T | str]]()
        with ThreadPoolExecutor(threads) as pool:
            for sample in self.samples():
                waiting.append(pool.submit(self._made, sample, each))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _made(self, sample: Sample, each: Callable[[Image.Image], T]) -> T | str:
        try:
            with model_image(sample.image, self.encoder, self.reader.manifest.reading) as found:
                return each(found.image)
        except ImageError as error:
            return str(error.reason)


def _same_encoder(manifest: Manifest, device: str) -> OpenClipEncoder:
    model = manifest.model
    if not manifest.has_tars:
        raise ModelError(
            "these scores were made from embeddings, so there is no model to encode with",
            "score the shards themselves",
        )
    try:
        precision = Precision(model.precision)
    except ValueError as error:
        raise ModelError(
            f"the manifest records no known precision ({error})", SCORE_AGAIN
        ) from error
    config = EncodeConfig(model.name, model.pretrained, device, precision)
    encoder = load_encoder(config)
    if encoder.record.digest != model.digest:
        raise ModelError(
            f"the weights of {model.name} ({model.pretrained}) are not those that made the scores",
            "score again, or bring the old checkpoint back",
        )
    if difference := model.redefined(encoder.record):
        raise ModelError(
            f"model {model.name} has changed since it made the scores, in {difference}",
            "score again, or bring the old configuration back",
        )
    return encoder
