"""Shards to embeddings: read, decode ahead in threads, encode in batches, commit shard by shard."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.errors import ModelError
from clipdre.formats.embeddings import EmbeddingFiles, Half
from clipdre.formats.images import ImageError, decode_image
from clipdre.formats.manifest import ModelRecord, ShardRecord
from clipdre.formats.samples import Failure, Reason, Sample, Stage, printable
from clipdre.formats.shards import read_samples
from clipdre.formats.tables import SAMPLE_SCHEMA, failures_table, key_hashes, write_table
from clipdre.models import Encoder
from clipdre.progress import Progress

# Of a shard whose decoding dies.
ATTEMPTS = 2


@dataclass(frozen=True)
class Decoded:
    """A sample whose image is ready for the model."""

    sample: Sample
    width: int
    height: int
    pixels: Tensor


@dataclass(frozen=True)
class ShardEmbeddings:
    """What has come of one shard.

    Attributes
    ----------
    seen : int
        Samples found, counted where they come in: each must be a row or a failure.
    images, texts : fp16 arrays of shape (rows, d)
    samples : pa.Table
        The rows' sample columns.
    """

    seen: int
    images: Half
    texts: Half
    samples: pa.Table
    failures: list[Failure]


def unread(failure: Failure, model: ModelRecord) -> ShardEmbeddings:
    """A shard of which nothing has come but a failure."""
    nothing = np.empty((0, model.embedding_dim), np.float16)
    return ShardEmbeddings(1, nothing, nothing, SAMPLE_SCHEMA.empty_table(), [failure])


class _WorkerDiedError(Exception):
    """A decoding worker ended by an error that is none of its sample's known ones."""


def _halved(size: int, error: Exception) -> int:
    """Half a batch that did not fit into the device's memory; `ModelError` where none does."""
    if size == 1:
        raise ModelError(
            "one pair alone does not fit into the device's memory: choose a smaller model, "
            "--precision bf16, or --device cpu"
        ) from error
    torch.cuda.empty_cache()
    warnings.warn(
        f"a batch of {size} does not fit into the device's memory: going on with {size // 2}; "
        f"--batch-size {size // 2} would have begun there",
        stacklevel=2,
    )
    return size // 2


@dataclass
class _Rows:
    """The rows of a shard as they are encoded."""

    shard: str
    most: int
    rows: list[dict[str, object]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)

    def add(self, batch: Sequence[Decoded], encoder: Encoder) -> list[Failure]:
        """Encode a batch; returns the samples of which the model makes no vector."""
        if not batch:
            return []
        parts = []
        while batch:
            part = batch[: self.most]
            try:
                parts.append(self._encoded(part, encoder))
            except torch.cuda.OutOfMemoryError as error:
                self.most = _halved(len(part), error)
                continue
            batch = batch[len(part) :]
        return [failure for part in parts for failure in part]

    def _encoded(self, batch: Sequence[Decoded], encoder: Encoder) -> list[Failure]:
        images = encoder.encode_images(torch.stack([record.pixels for record in batch]))
        texts = encoder.encode_texts([record.sample.caption for record in batch])
        finite = torch.isfinite(images).all(1) & torch.isfinite(texts).all(1)
        self.images.append(images[finite].half())
        self.texts.append(texts[finite].half())
        good = finite.tolist()
        self.rows += [self._row(r) for r, use in zip(batch, good, strict=True) if use]
        return [_not_finite(r.sample) for r, use in zip(batch, good, strict=True) if not use]

    def _row(self, record: Decoded) -> dict[str, object]:
        sample = record.sample
        return {
            "key": printable(sample.key),
            "uid": sample.uid and printable(sample.uid),
            "shard": self.shard,
            "offset": sample.offset,
            "nbytes": sample.nbytes,
            "caption": sample.caption,
            "width": record.width,
            "height": record.height,
        }


def encode_shard(
    shard: ShardRecord,
    encoder: Encoder,
    read: ReadConfig,
    encode: EncodeConfig,
    progress: Progress,
) -> ShardEmbeddings:
    """Encode one shard.

    A shard that cannot be opened or breaks off is a failure row, not an error.
    """
    for _ in range(ATTEMPTS):
        try:
            return _encode_shard(shard, encoder, read, encode, progress)
        except _WorkerDiedError as error:  # noqa: PERF203
            reason = str(error)
    message = f"a decoding worker died, {ATTEMPTS} times: {reason}"
    return unread(Failure("", 0, Stage.DECODE, Reason.WORKER_DIED, message), encoder.record)


def _encode_shard(
    shard: ShardRecord,
    encoder: Encoder,
    read: ReadConfig,
    encode: EncodeConfig,
    progress: Progress,
) -> ShardEmbeddings:
    rows, failures, seen, position = _Rows(shard.name, encode.batch_size), list[Failure](), 0, 0
    with ThreadPoolExecutor(max(1, encode.workers)) as threads:
        records = _decode_ahead(
            read_samples(shard.url, read), encoder, read, threads, 3 * encode.batch_size
        )
        while window := list(islice(records, encode.batch_size)):
            seen += len(window)
            failures += [record for record in window if isinstance(record, Failure)]
            batch = [record for record in window if isinstance(record, Decoded)]
            failures += rows.add(batch, encoder)
            reached = max(position, *(_end(record) for record in window))
            progress.advance(reached - position, len(window))
            position = reached
    progress.advance(max(0, shard.nbytes - position))
    dim = encoder.record.embedding_dim
    hashes = key_hashes(shard.name, [str(row["key"]) for row in rows.rows])
    for row, value in zip(rows.rows, hashes.tolist(), strict=True):
        row["key_hash"] = value
    samples = pa.Table.from_pylist(rows.rows, schema=SAMPLE_SCHEMA)
    return ShardEmbeddings(
        seen, _stacked(rows.images, dim), _stacked(rows.texts, dim), samples, failures
    )


def commit_shard(
    found: ShardEmbeddings,
    shard: ShardRecord,
    files: EmbeddingFiles,
    failures: Path,
    facts: dict[str, str],
) -> ShardRecord:
    """Write one shard's failures and embeddings; returns its record with the counts."""
    if len(found.samples) + len(found.failures) != found.seen:
        raise RuntimeError(
            f"{shard.name}: {len(found.samples)} rows and {len(found.failures)} failures "
            f"of {found.seen} samples; this is an error in clipdre"
        )
    ordered = sorted(found.failures, key=lambda failure: failure.offset)
    counts = Counter(failure.reason.value for failure in ordered)
    write_table(failures_table(ordered), failures)
    files.write(found.images, found.texts, found.samples, facts)
    return replace(shard, rows=len(found.samples), failures=dict(sorted(counts.items())))


def _decode_ahead(
    records: Iterable[Sample | Failure],
    encoder: Encoder,
    config: ReadConfig,
    threads: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[Decoded | Failure]:
    """Decode in threads, in order, at most `ahead` samples before they are asked for."""
    pending: deque[Future[Decoded | Failure] | Failure] = deque()
    for record in records:
        if isinstance(record, Failure):
            pending.append(record)
        else:
            pending.append(threads.submit(_decode, record, encoder, config))
        if len(pending) >= ahead:
            yield _settled(pending.popleft())
    while pending:
        yield _settled(pending.popleft())


def _settled(item: Future[Decoded | Failure] | Failure) -> Decoded | Failure:
    if isinstance(item, Failure):
        return item
    try:
        return item.result()
    except Exception as error:  # whatever it is, it is no fault of the other shards
        raise _WorkerDiedError(f"{type(error).__name__}: {error}") from error


def _decode(sample: Sample, encoder: Encoder, config: ReadConfig) -> Decoded | Failure:
    try:
        image = decode_image(
            sample.image, max_pixels=config.max_pixels, max_aspect_ratio=config.max_aspect_ratio
        )
    except ImageError as error:
        return Failure(sample.key, sample.offset, Stage.DECODE, error.reason, str(error))
    pixels = encoder.preprocess(image)
    return Decoded(replace(sample, image=b""), image.width, image.height, pixels)


def _not_finite(sample: Sample) -> Failure:
    message = "the model gives NaN, infinity or a zero vector; try --precision fp32"
    return Failure(sample.key, sample.offset, Stage.ENCODE, Reason.NON_FINITE_EMBEDDING, message)


def _end(record: Decoded | Failure) -> int:
    if isinstance(record, Failure):
        return record.offset
    return record.sample.offset + record.sample.nbytes


def _stacked(parts: list[Tensor], dim: int) -> Half:
    stacked: Half = torch.cat(parts).numpy() if parts else np.empty((0, dim), np.float16)
    return stacked
