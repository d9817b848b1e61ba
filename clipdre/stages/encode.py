"""Shards to embeddings: read, decode ahead in threads, encode in batches, commit shard by shard."""

from __future__ import annotations

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
from clipdre.errors import InputError
from clipdre.formats.embeddings import EmbeddingFiles, Half
from clipdre.formats.images import ImageError, decode_image
from clipdre.formats.manifest import ShardRecord
from clipdre.formats.samples import Failure, Reason, Sample, Stage, printable
from clipdre.formats.shards import iter_samples
from clipdre.formats.storage import open_source
from clipdre.formats.tables import SAMPLE_SCHEMA, failures_table, key_hash, write_table
from clipdre.models import Encoder
from clipdre.progress import Progress


@dataclass(frozen=True)
class Decoded:
    """A sample whose image is ready for the model."""

    sample: Sample
    width: int
    height: int
    pixels: Tensor


@dataclass
class EncodedShard:
    """What has come of one shard so far."""

    shard: str
    seen: int = 0
    rows: list[dict[str, object]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    texts: list[Tensor] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, window: Sequence[Decoded | Failure], encoder: Encoder) -> None:
        """Encode what could be decoded of `window`, a batch in shard order."""
        self.seen += len(window)
        self.failures += [record for record in window if isinstance(record, Failure)]
        batch = [record for record in window if isinstance(record, Decoded)]
        if not batch:
            return
        images = encoder.encode_images(torch.stack([record.pixels for record in batch]))
        texts = encoder.encode_texts([record.sample.caption for record in batch])
        finite = torch.isfinite(images).all(1) & torch.isfinite(texts).all(1)
        self.images.append(images[finite].half())
        self.texts.append(texts[finite].half())
        for record, good in zip(batch, finite.tolist(), strict=True):
            if good:
                self.rows.append(_sample_row(record, self.shard))
            else:
                self.failures.append(_not_finite(record.sample))


def encode_shard(
    shard: ShardRecord,
    encoder: Encoder,
    read: ReadConfig,
    encode: EncodeConfig,
    progress: Progress,
) -> EncodedShard:
    """Encode one shard.

    A shard that cannot be opened or breaks off is a failure row, not an error.
    """
    encoded = EncodedShard(shard.name)
    with ThreadPoolExecutor(max(1, encode.workers)) as threads:
        records = _decode_ahead(_read(shard, read), encoder, read, threads, 3 * encode.batch_size)
        position = 0
        while window := list(islice(records, encode.batch_size)):
            encoded.add(window, encoder)
            reached = max(position, *(_end(record) for record in window))
            progress.advance(reached - position, len(window))
            position = reached
    progress.advance(max(0, shard.nbytes - position))
    return encoded


def commit_shard(
    encoded: EncodedShard,
    shard: ShardRecord,
    files: EmbeddingFiles,
    failures: Path,
    dim: int,
    facts: dict[str, str],
) -> ShardRecord:
    """Write one shard's failures and embeddings; returns its record with the counts."""
    if len(encoded.rows) + len(encoded.failures) != encoded.seen:
        raise RuntimeError(
            f"{shard.name}: {len(encoded.rows)} rows and {len(encoded.failures)} failures "
            f"of {encoded.seen} samples; this is an error in clipdre"
        )
    encoded.failures.sort(key=lambda failure: failure.offset)
    counts = Counter(failure.reason.value for failure in encoded.failures)
    write_table(failures_table(encoded.failures), failures)
    samples = pa.Table.from_pylist(encoded.rows, schema=SAMPLE_SCHEMA)
    files.write(_stacked(encoded.images, dim), _stacked(encoded.texts, dim), samples, facts)
    return replace(shard, rows=len(encoded.rows), failures=dict(sorted(counts.items())))


def _read(shard: ShardRecord, config: ReadConfig) -> Iterator[Sample | Failure]:
    try:
        with open_source(shard.url) as file:
            yield from iter_samples(file, config)
    except (InputError, OSError) as error:
        yield Failure("", 0, Stage.READ, Reason.BROKEN_TAR, str(error))


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
    return item if isinstance(item, Failure) else item.result()


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


def _sample_row(record: Decoded, shard: str) -> dict[str, object]:
    sample = record.sample
    return {
        "key": printable(sample.key),
        "uid": sample.uid and printable(sample.uid),
        "shard": shard,
        "offset": sample.offset,
        "nbytes": sample.nbytes,
        "caption": sample.caption,
        "width": record.width,
        "height": record.height,
        "key_hash": key_hash(shard, sample.key),
    }


def _end(record: Decoded | Failure) -> int:
    if isinstance(record, Failure):
        return record.offset
    return record.sample.offset + record.sample.nbytes


def _stacked(parts: list[Tensor], dim: int) -> Half:
    stacked: Half = torch.cat(parts).numpy() if parts else np.empty((0, dim), np.float16)
    return stacked
