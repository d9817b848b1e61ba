"""Shards to embeddings: read, decode ahead in threads, encode in batches, commit by shard."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clipdre.config import Decode, EncodeConfig, ReadConfig
from clipdre.engines.base import Advance
from clipdre.errors import ModelError
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.embeddings import WARNINGS, EmbeddingFiles, Half
from clipdre.formats.folders.records import ModelRecord, ShardRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, failures_table, key_hashes
from clipdre.formats.tars.images import decoded_image
from clipdre.formats.tars.limits import ImageError
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
# A JPEG is scaled down by its decoder to this multiple of the model's size or more: the pixels the
# model sees then differ by less than 1 % of full scale (root mean square) from exact decoding.
DETAIL = 2
# Encoded images that wait to be decoded; how many there are depends on the batch size.
AHEAD_BYTES = 512 * 1024 * 1024
# Captions that wait to be encoded together.
CAPTIONS = 4096
NOTHING = torch.empty(0)


@dataclass(frozen=True)
class Decoded:
    """A sample whose image is ready for the model."""

    sample: Sample
    width: int
    height: int
    pixels: Tensor
    tokens: Tensor


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


class _WorkerDiedError(Exception):
    """A decoding worker raised an unexpected error."""


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
class _InParts:
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


class _Rows:
    """The rows of a shard as they are encoded.

    Captions wait for one another: the more there are, the better they group by length.
    """

    def __init__(self, shard: str, encoder: Encoder, batch_size: int) -> None:
        self._shard = shard
        self._dim = encoder.record.embedding_dim
        self._encode_images = _InParts(encoder.encode_images, batch_size)
        self._encode_texts = _InParts(encoder.encode_texts, CAPTIONS)
        self._samples: list[Decoded] = []
        self._waiting: list[Tensor] = []
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []

    def add(self, batch: Sequence[Decoded]) -> None:
        """Encode a batch's images, and the waiting captions once there are enough."""
        self._images += self._encode_images([record.pixels for record in batch])
        self._waiting += [record.tokens for record in batch]
        self._samples += [replace(r, pixels=NOTHING, tokens=NOTHING) for r in batch]
        if len(self._waiting) >= CAPTIONS:
            self._read_captions()

    def _read_captions(self) -> None:
        self._texts += self._encode_texts(self._waiting)
        self._waiting = []

    def finished(self, seen: int, failures: list[Failure]) -> ShardEmbeddings:
        """Return all rows; samples whose vectors are not finite join the failures."""
        self._read_captions()
        images, texts = _stacked(self._images, self._dim), _stacked(self._texts, self._dim)
        finite = np.isfinite(np.hstack([images, texts])).all(axis=1)
        good = [self._samples[n] for n in np.flatnonzero(finite)]
        bad = [self._samples[n] for n in np.flatnonzero(~finite)]
        failures = failures + [_not_finite(record.sample) for record in bad]
        hashes = key_hashes(self._shard, [printable(record.sample.key) for record in good])
        rows = [self._row(r, int(value)) for r, value in zip(good, hashes, strict=True)]
        samples = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
        return ShardEmbeddings(seen, images[finite], texts[finite], samples, failures)

    def _row(self, record: Decoded, key_hash: int) -> dict[str, object]:
        sample = record.sample
        return {
            "key": printable(sample.key),
            "uid": sample.uid and printable(sample.uid),
            "shard": self._shard,
            "offset": sample.offset,
            "nbytes": sample.nbytes,
            "caption": sample.caption,
            "width": record.width,
            "height": record.height,
            "key_hash": key_hash,
        }


def encode_shard(
    shard: ShardRecord,
    encoder: Encoder,
    read: ReadConfig,
    encode: EncodeConfig,
    advance: Advance,
) -> ShardEmbeddings:
    """Encode one shard.

    A shard that cannot be opened or ends early is a failure row, not an error.
    """
    for _ in range(ATTEMPTS):
        try:
            return _encode_shard(shard, encoder, read, encode, advance)
        except _WorkerDiedError as error:
            reason = str(error)
    message = f"a decoding worker died, {ATTEMPTS} times: {reason}"
    return failed_shard(Failure("", 0, Stage.DECODE, Reason.WORKER_DIED, message), encoder.record)


def _encode_shard(
    shard: ShardRecord,
    encoder: Encoder,
    read: ReadConfig,
    encode: EncodeConfig,
    advance: Advance,
) -> ShardEmbeddings:
    rows = _Rows(shard.name, encoder, encode.batch_size)
    failures, notes, seen, position = list[Failure](), list[Note](), 0, 0
    with ThreadPoolExecutor(max(1, encode.workers)) as threads:
        records = _decode_ahead(
            read_samples(shard.url, read), encoder, read, threads, 3 * encode.batch_size
        )
        while window := list(islice(records, encode.batch_size)):
            notes += [record for record in window if isinstance(record, Note)]
            seen += sum(not isinstance(record, Note) for record in window)
            failures += [record for record in window if isinstance(record, Failure)]
            rows.add([record for record in window if isinstance(record, Decoded)])
            reached = max(position, *(_end(record) for record in window))
            advance(reached - position, len(window))
            position = reached
    advance(max(0, shard.nbytes - position), 0)
    warnings = tuple(note.message for note in notes if note.kind is not NoteKind.PASSED_OVER)
    return replace(rows.finished(seen, failures), warnings=warnings)


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
    files.write(found.images, found.texts, found.samples, {**stamp, **warned})
    return msgspec.structs.replace(
        shard,
        rows=len(found.samples),
        failures=dict(sorted(counts.items())),
        warnings=found.warnings,
    )


def _decode_ahead(
    records: Iterable[Sample | Failure | Note],
    encoder: Encoder,
    config: ReadConfig,
    threads: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[Decoded | Failure | Note]:
    """Decode in threads, in order, at most `ahead` samples and `AHEAD_BYTES` ahead."""
    pending: deque[tuple[Future[Decoded | Failure] | Failure | Note, int]] = deque()
    held = 0
    for record in records:
        if isinstance(record, Sample):
            pending.append((threads.submit(decode, record, encoder, config), len(record.image)))
        else:
            pending.append((record, 0))
        held += pending[-1][1]
        while pending and (len(pending) >= ahead or held > AHEAD_BYTES):
            item, nbytes = pending.popleft()
            held -= nbytes
            yield _settled(item)
    while pending:
        yield _settled(pending.popleft()[0])


def _settled(item: Future[Decoded | Failure] | Failure | Note) -> Decoded | Failure | Note:
    if not isinstance(item, Future):
        return item
    try:
        return item.result()
    except Exception as error:  # any error of one shard must leave the others alone
        raise _WorkerDiedError(f"{type(error).__name__}: {error}") from error


def decode(sample: Sample, encoder: Encoder, config: ReadConfig) -> Decoded | Failure:
    """Decode, preprocess and tokenize a sample; in any thread."""
    try:
        pixels, width, height = _pixels(sample, encoder, config)
    except ImageError as error:
        return Failure(sample.key, sample.offset, Stage.DECODE, error.reason, str(error))
    tokens = encoder.tokenize(sample.caption)
    if encoder.is_empty(tokens):
        message = "the model's tokenizer finds no text in the caption"
        return Failure(sample.key, sample.offset, Stage.DECODE, Reason.EMPTY_CAPTION, message)
    return Decoded(replace(sample, image=b""), width, height, pixels, tokens)


def _pixels(sample: Sample, encoder: Encoder, config: ReadConfig) -> tuple[Tensor, int, int]:
    """Return the model's input, and the width and height of the image; `ImageError` if bad."""
    with decoded_image(
        sample.image,
        max_pixels=config.max_pixels,
        max_aspect_ratio=config.max_aspect_ratio,
        smallest=DETAIL * encoder.image_size if config.decode is Decode.FAST else None,
    ) as found:
        return encoder.preprocess(found.image), found.width, found.height


def _not_finite(sample: Sample) -> Failure:
    message = "the model returned NaN, infinity or a zero vector; try precision fp32"
    return Failure(sample.key, sample.offset, Stage.ENCODE, Reason.NON_FINITE_EMBEDDING, message)


def _end(record: Decoded | Failure | Note) -> int:
    if isinstance(record, Decoded):
        return record.sample.offset + record.sample.nbytes
    return record.offset


def _stacked(parts: list[Tensor], dim: int) -> Half:
    stacked: Half = torch.cat(parts).cpu().numpy() if parts else np.empty((0, dim), np.float16)
    return stacked
