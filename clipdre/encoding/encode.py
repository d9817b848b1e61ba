"""Shards to embeddings: decode ahead in threads, encode in batches that span shards, commit."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import torch

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.batch import Batch
from clipdre.encoding.decode import Decoded, decode
from clipdre.engines.base import Advance
from clipdre.formats.files.content import content_sample
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.columns import CAPTION_SOURCE
from clipdre.formats.folders.embeddings import (
    SAMPLE,
    WARNINGS,
    EmbeddingFiles,
    Stored,
    are_usable,
    stored_type,
)
from clipdre.formats.folders.kept import column_names, kinds_stamp
from clipdre.formats.folders.records import ModelRecord, ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, failures_table, key_hashes
from clipdre.formats.tars.samples import (
    Failure,
    Note,
    NoteKind,
    Reason,
    Sample,
    Stage,
    printable,
)
from clipdre.formats.tars.shards import read_samples
from clipdre.models.encoder import Encoder

# Tries of a shard whose decoding dies.
ATTEMPTS = 2
# Encoded images that wait to be decoded; how many there are depends on the batch size.
AHEAD_BYTES = 512 * 1024 * 1024
NOTHING = torch.empty(0)


@dataclass(frozen=True)
class ShardEmbeddings:
    """Everything that one shard gave.

    Attributes
    ----------
    seen : int
        Samples found, counted as they are read: each must become a row or a failure.
    images, texts : `Stored` arrays of shape (rows, d)
    samples : pa.Table
        The rows' sample columns.
    warnings : tuple of str
        Why the shard may lack samples, see `ShardRecord`.
    """

    seen: int
    images: Stored
    texts: Stored
    samples: pa.Table
    failures: list[Failure]
    warnings: tuple[str, ...] = ()


def failed_shard(failure: Failure, model: ModelRecord) -> ShardEmbeddings:
    """Return a shard that gave nothing but a failure."""
    nothing = np.empty((0, model.embedding_dim), stored_type(model.inner_product))
    return ShardEmbeddings(1, nothing, nothing, SAMPLE_SCHEMA.empty_table(), [failure])


@dataclass(frozen=True)
class _Died:
    """A decoding worker raised an unexpected error."""

    reason: str


class _End:
    """A shard was read to its end."""


Record = Decoded | Failure | Note | _Died | _End


class _Found:
    """What one shard gave so far."""

    def __init__(self, shard: ShardRecord, read: ReadConfig) -> None:
        self._shard = shard
        self._kept = list(column_names(read.keep).values())
        self._several = len(read.captions) > 1
        self.died: _Died | None = None
        self._seen = self._position = 0
        self._failures: list[Failure] = []
        self._warnings: list[str] = []
        self._samples: list[Decoded] = []
        self._images: list[Stored] = []
        self._texts: list[Stored] = []

    def add(self, record: Record) -> tuple[int, int]:
        """Add a record; return the bytes and samples that were read with it."""
        if isinstance(record, _Died):
            self.died = self.died or record
            return 0, 0
        if isinstance(record, _End):
            return self._reach(self._shard.nbytes), 0
        if isinstance(record, Note):
            if record.kind is not NoteKind.PASSED_OVER:
                self._warnings.append(record.message)
            return self._reach(record.offset), 0
        self._seen += 1
        if isinstance(record, Failure):
            self._failures.append(record)
            return self._reach(record.offset), 1
        self._samples.append(replace(record, pixels=NOTHING, tokens=NOTHING))
        return self._reach(record.sample.offset + record.sample.nbytes), 1

    def _reach(self, position: int) -> int:
        before, self._position = self._position, max(self._position, position)
        return self._position - before

    @property
    def waiting(self) -> int:
        """Number of samples that have no vectors yet."""
        return len(self._samples) - sum(map(len, self._images))

    def add_vectors(self, images: Stored, texts: Stored) -> None:
        """Add the vectors of the samples that waited longest."""
        self._images.append(images)
        self._texts.append(texts)

    def finished(self) -> ShardEmbeddings:
        """Return all rows; samples whose vectors cannot be scored join the failures."""
        images, texts = np.concatenate(self._images), np.concatenate(self._texts)
        usable = are_usable(images) & are_usable(texts)
        good = [self._samples[n] for n in np.flatnonzero(usable)]
        bad = [self._samples[n] for n in np.flatnonzero(~usable)]
        failures = self._failures + [_not_finite(record.sample) for record in bad]
        hashes = key_hashes(self._shard.name, [printable(record.sample.key) for record in good])
        rows = [self._row(r, int(value)) for r, value in zip(good, hashes, strict=True)]
        samples = self._with_kept(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), good)
        warnings = tuple(self._warnings)
        return ShardEmbeddings(
            self._seen, images[usable], texts[usable], samples, failures, warnings
        )

    def _with_kept(self, samples: pa.Table, records: Sequence[Decoded]) -> pa.Table:
        """Return the rows with which caption they have, if there are several, and kept fields."""
        if self._several:
            sources = pa.array([record.sample.caption_source for record in records], pa.string())
            samples = samples.append_column(CAPTION_SOURCE.name, sources)
        if not self._kept:
            return samples
        columns = {
            name: [record.sample.kept[n] for record in records] for n, name in enumerate(self._kept)
        }
        for name, values in columns.items():
            samples = samples.append_column(name, pa.array(values, pa.string()))
        return samples.replace_schema_metadata(kinds_stamp(columns))

    def _row(self, record: Decoded, key_hash: int) -> dict[str, object]:
        sample = record.sample
        image_offset, image_nbytes = sample.image_span or (None, None)
        return {
            "key": printable(sample.key),
            "uid": sample.uid and printable(sample.uid),
            "shard": self._shard.name,
            "path": self._shard.place,
            "offset": sample.offset,
            "nbytes": sample.nbytes,
            "image_offset": image_offset,
            "image_nbytes": image_nbytes,
            "caption": sample.caption,
            "width": record.width,
            "height": record.height,
            "key_hash": key_hash,
        }


class ShardEncoder:
    """Encodes shards one after another; its batches span shards.

    A shard that was read to its end waits for no more than the next full batch of images.
    """

    def __init__(
        self, encoder: Encoder, read: ReadConfig, encode: EncodeConfig, advance: Advance
    ) -> None:
        self._encoder, self._read, self._config = encoder, read, encode
        self._advance = advance
        self._batch = Batch(encoder, encode.batch_size)

    def encode(self, shards: Sequence[ShardRecord]) -> Iterator[tuple[int, ShardEmbeddings]]:
        """Yield each shard's index and all it gave, once its rows are encoded; in any order.

        A shard that cannot be opened or ends early is a failure row, not an error.
        """
        left, died = list(range(len(shards))), dict[int, _Died]()
        for _ in range(ATTEMPTS):
            died = {}
            for n, found in zip(left, self._found([shards[n] for n in left]), strict=True):
                if found.died is not None:
                    died[n] = found.died
                else:
                    yield n, found.finished()
            left = list(died)
        for n, death in died.items():
            message = f"a decoding worker died, {ATTEMPTS} times: {death.reason}"
            failure = Failure("", 0, Stage.DECODE, Reason.WORKER_DIED, message)
            yield n, failed_shard(failure, self._encoder.record)

    def _found(self, shards: Sequence[ShardRecord]) -> Iterator[_Found]:
        """Yield what each shard gave, in order, with all vectors unless it died."""
        found = [_Found(shard, self._read) for shard in shards]
        reading = settled = 0
        nbytes = samples = failures = 0
        with ThreadPoolExecutor(max(1, self._config.workers)) as threads:
            for record in self._records(shards, threads):
                shard = found[reading]
                ended, full = isinstance(record, _End), False
                if ended or shard.died is None:
                    more, one = shard.add(record)
                    nbytes, samples = nbytes + more, samples + one
                    failures += isinstance(record, Failure)
                    full = isinstance(record, Decoded) and self._batch.add(record)
                if ended or full:
                    self._advance(nbytes, samples, failures)
                    nbytes = samples = failures = 0
                reading += ended
                if self._batch.is_full or (full and reading > settled):
                    self._batch.settle(found[settled : reading + 1])
                    yield from found[settled:reading]
                    settled = reading
        self._batch.settle(found[settled:])
        yield from found[settled:]

    def _records(
        self, shards: Sequence[ShardRecord], threads: ThreadPoolExecutor
    ) -> Iterator[Record]:
        """Read and decode in threads, at most three batches and `AHEAD_BYTES` ahead."""
        pending: deque[tuple[Future[list[Decoded | Failure]] | Sequence[Record], int]] = deque()
        held = 0
        for shard in shards:
            for records in by_image(read_samples(shard.url, self._read)):
                if isinstance(records[0], Sample):
                    held += len(records[0].image)
                    decoded: Future[list[Decoded | Failure]]
                    decoded = threads.submit(decode, records, self._encoder, self._read)
                    pending.append((decoded, len(records[0].image)))
                else:
                    pending.append((records, 0))
                ahead = 3 * self._config.batch_size
                while pending and (len(pending) >= ahead or held > AHEAD_BYTES):
                    item, nbytes = pending.popleft()
                    held -= nbytes
                    yield from _settled(item)
        while pending:
            yield from _settled(pending.popleft()[0])


def commit_shard(
    found: ShardEmbeddings,
    shard: ShardRecord,
    files: EmbeddingFiles,
    failures: Path,
    stamp: dict[str, str],
) -> ShardRecord:
    """Write one shard's failures and embeddings; return its record with the counts."""
    if len(found.samples) + len(found.failures) != found.seen:
        raise RuntimeError(
            f"{shard.name}: {len(found.samples)} rows and {len(found.failures)} failures "
            f"of {found.seen} samples; this is a bug in clipdre"
        )
    ordered = sorted(found.failures, key=lambda failure: failure.offset)
    counts = Counter(failure.reason.value for failure in ordered)
    write_table(failures_table(ordered), failures)
    warned = {WARNINGS: "\n".join(found.warnings)} if found.warnings else {}
    sample = content_sample(shard.url)
    stamp = {**stamp, **warned, SAMPLE: sample}
    files.write(found.images, found.texts, found.samples, stamp)
    return msgspec.structs.replace(
        shard,
        rows=len(found.samples),
        failures=dict(sorted(counts.items())),
        warnings=found.warnings,
        sample=sample,
    )


def by_image(records: Iterable[Sample | Failure | Note]) -> Iterator[list[Any]]:
    """Yield the samples of one image together, all other records alone, and the end of the shard.

    A sample that is read once for each of its captions comes with the same bytes each time.
    """
    held: list[Sample] = []
    for record in records:
        if isinstance(record, Sample) and held and record.image is held[0].image:
            held.append(record)
            continue
        if held:
            yield held
            held = []
        if isinstance(record, Sample) and record.caption_source:  # others may follow
            held = [record]
        else:
            yield [record]
    if held:
        yield held
    yield [_End()]


def _settled(item: Future[list[Decoded | Failure]] | Sequence[Record]) -> Sequence[Record]:
    if not isinstance(item, Future):
        return item
    try:
        return item.result()
    except Exception as error:  # any error of one shard must leave the others alone
        return [_Died(f"{type(error).__name__}: {error}")]


def _not_finite(sample: Sample) -> Failure:
    message = "the model returned NaN, infinity or a zero vector; try precision fp32"
    return Failure(sample.key, sample.offset, Stage.ENCODE, Reason.NON_FINITE_EMBEDDING, message)
