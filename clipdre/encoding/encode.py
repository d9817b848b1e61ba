"""Shards to embeddings: decode ahead in threads, encode in batches that span shards, commit."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.decode import Decoded, decode
from clipdre.engines.base import Advance
from clipdre.errors import ModelError
from clipdre.formats.files.content import content_sample
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.embeddings import SAMPLE, WARNINGS, EmbeddingFiles, Half
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
# Captions that wait to be encoded together.
CAPTIONS = 4096
NOTHING = torch.empty(0)


@dataclass(frozen=True)
class ShardEmbeddings:
    """Everything that one shard gave.

    Attributes
    ----------
    seen : int
        Samples found, counted as they are read: each must become a row or a failure.
    images, texts : fp16 arrays of shape (rows, d)
    samples : pa.Table
        The rows' sample columns.
    warnings : tuple of str
        Why the shard may lack samples, see `ShardRecord`.
    """

    seen: int
    images: Half
    texts: Half
    samples: pa.Table
    failures: list[Failure]
    warnings: tuple[str, ...] = ()


def failed_shard(failure: Failure, model: ModelRecord) -> ShardEmbeddings:
    """Return a shard that gave nothing but a failure."""
    nothing = np.empty((0, model.embedding_dim), np.float16)
    return ShardEmbeddings(1, nothing, nothing, SAMPLE_SCHEMA.empty_table(), [failure])


@dataclass(frozen=True)
class _Died:
    """A decoding worker raised an unexpected error."""

    reason: str


class _End:
    """A shard was read to its end."""


Record = Decoded | Failure | Note | _Died | _End


def _halved(size: int, error: Exception) -> int:
    """Halve a batch that did not fit into the device's memory; `ModelError` if it is one pair."""
    if size == 1:
        raise ModelError(
            "one pair alone does not fit into the device's memory",
            "choose a smaller model, `precision` bf16, or `device` cpu",
        ) from error
    torch.cuda.empty_cache()
    warnings.warn(
        f"a batch of {size} does not fit into the device's memory, continuing with {size // 2}: "
        f"pass `batch_size` {size // 2} to start there",
        stacklevel=2,
    )
    return size // 2


@dataclass
class InParts:
    """Encodes rows in parts that fit into the device's memory."""

    encode: Callable[[Sequence[Tensor]], Tensor]
    most: int

    def __call__(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Encode n rows to fp16 vectors in parts of shape (n', d), which stay on the device."""
        parts = []
        while rows:
            part = rows[: self.most]
            try:
                parts.append(self.encode(part).half())
            except torch.cuda.OutOfMemoryError as error:
                self.most = _halved(len(part), error)
                continue
            rows = rows[len(part) :]
        return parts


class _Found:
    """What one shard gave so far."""

    def __init__(self, shard: ShardRecord) -> None:
        self._shard = shard
        self.died: _Died | None = None
        self._seen = self._position = 0
        self._failures: list[Failure] = []
        self._warnings: list[str] = []
        self._samples: list[Decoded] = []
        self._images: list[Half] = []
        self._texts: list[Half] = []

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

    def add_vectors(self, images: Half, texts: Half) -> None:
        """Add the vectors of the samples that waited longest."""
        self._images.append(images)
        self._texts.append(texts)

    def finished(self) -> ShardEmbeddings:
        """Return all rows; samples whose vectors are not finite join the failures."""
        images, texts = np.concatenate(self._images), np.concatenate(self._texts)
        finite = np.isfinite(np.hstack([images, texts])).all(axis=1)
        good = [self._samples[n] for n in np.flatnonzero(finite)]
        bad = [self._samples[n] for n in np.flatnonzero(~finite)]
        failures = self._failures + [_not_finite(record.sample) for record in bad]
        hashes = key_hashes(self._shard.name, [printable(record.sample.key) for record in good])
        rows = [self._row(r, int(value)) for r, value in zip(good, hashes, strict=True)]
        samples = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
        warnings = tuple(self._warnings)
        return ShardEmbeddings(
            self._seen, images[finite], texts[finite], samples, failures, warnings
        )

    def _row(self, record: Decoded, key_hash: int) -> dict[str, object]:
        sample = record.sample
        return {
            "key": printable(sample.key),
            "uid": sample.uid and printable(sample.uid),
            "shard": self._shard.name,
            "offset": sample.offset,
            "nbytes": sample.nbytes,
            "caption": sample.caption,
            "width": record.width,
            "height": record.height,
            "key_hash": key_hash,
        }


class _Batch:
    """Samples of one or more shards that are encoded together.

    Captions wait for one another: the more there are, the better they group by length.
    """

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._dim = encoder.record.embedding_dim
        self._size = batch_size
        self._encode_images = InParts(encoder.encode_images, batch_size)
        self._encode_texts = InParts(encoder.encode_texts, CAPTIONS)
        self._pixels: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._images: list[Tensor] = []

    def add(self, record: Decoded) -> bool:
        """Add a sample; return whether it was the last of a batch of images."""
        self._pixels.append(record.pixels)
        self._tokens.append(record.tokens)
        full = len(self._pixels) == self._size
        if full:
            self._read_images()
        return full

    def _read_images(self) -> None:
        self._images += self._encode_images(self._pixels)
        self._pixels = []

    @property
    def is_full(self) -> bool:
        """Whether as many captions wait as are encoded together."""
        return len(self._tokens) >= CAPTIONS

    def settle(self, shards: Iterable[_Found]) -> None:
        """Encode what waits, and give the vectors to the shards, which hold its samples."""
        self._read_images()
        images = _stacked(self._images, self._dim)
        texts = _stacked(self._encode_texts(self._tokens), self._dim)
        self._images, self._tokens = [], []
        for shard in shards:
            count = shard.waiting
            shard.add_vectors(images[:count], texts[:count])
            images, texts = images[count:], texts[count:]


class ShardEncoder:
    """Encodes shards one after another; its batches span shards.

    A shard that was read to its end waits for no more than the next full batch of images.
    """

    def __init__(
        self, encoder: Encoder, read: ReadConfig, encode: EncodeConfig, advance: Advance
    ) -> None:
        self._encoder, self._read, self._config = encoder, read, encode
        self._advance = advance
        self._batch = _Batch(encoder, encode.batch_size)

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
        found = [_Found(shard) for shard in shards]
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
        pending: deque[tuple[Future[Record] | Failure | Note | _End, int]] = deque()
        held = 0
        for shard in shards:
            for record in chain(read_samples(shard.url, self._read), [_End()]):
                if isinstance(record, Sample):
                    held += len(record.image)
                    decoded: Future[Record]
                    decoded = threads.submit(decode, record, self._encoder, self._read)
                    pending.append((decoded, len(record.image)))
                else:
                    pending.append((record, 0))
                ahead = 3 * self._config.batch_size
                while pending and (len(pending) >= ahead or held > AHEAD_BYTES):
                    item, nbytes = pending.popleft()
                    held -= nbytes
                    yield _settled(item)
        while pending:
            yield _settled(pending.popleft()[0])


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


def _settled(item: Future[Record] | Failure | Note | _End) -> Record:
    if not isinstance(item, Future):
        return item
    try:
        return item.result()
    except Exception as error:  # any error of one shard must leave the others alone
        return _Died(f"{type(error).__name__}: {error}")


def _not_finite(sample: Sample) -> Failure:
    message = "the model returned NaN, infinity or a zero vector; try precision fp32"
    return Failure(sample.key, sample.offset, Stage.ENCODE, Reason.NON_FINITE_EMBEDDING, message)


def _stacked(parts: list[Tensor], dim: int) -> Half:
    stacked: Half = torch.cat(parts).cpu().numpy() if parts else np.empty((0, dim), np.float16)
    return stacked
