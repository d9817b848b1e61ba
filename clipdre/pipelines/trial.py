"""What a run would take: a few hundred pairs are encoded, and nothing is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch

from clipdre.config import EncodeConfig, EstimateConfig, ReadConfig, ReferenceMethod
from clipdre.encoding.batch import CAPTIONS, InParts
from clipdre.encoding.decode import Decoded, decode
from clipdre.errors import InputError
from clipdre.formats.files.storage import identify
from clipdre.formats.folders.embeddings import stored_type
from clipdre.formats.folders.records import ModelRecord
from clipdre.formats.tars.places import shard_name
from clipdre.formats.tars.samples import Failure, Note, Reason, Sample, Stage
from clipdre.formats.tars.shards import read_samples
from clipdre.formats.tars.stated import stated_count
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder, usable_devices
from clipdre.pipelines.score import ScoreConfig

# Shards that samples are taken from.
SHARDS = 8
# Bytes of a pair in score files, key hashes and groups, besides its vectors and caption.
ROW_BYTES = 300


@dataclass(frozen=True)
class Trial:
    """What some pairs took, and what the whole pool would.

    Attributes
    ----------
    model : ModelRecord
    devices : tuple of str
    workers : int
        Decoding threads.
    shards, shards_tried : int
    nbytes : int
        Size of all shards.
    rows : int
        Pairs that were encoded.
    failures : dict
        Reason to how many of the samples failed for it.
    decoding, encoding : float
        Pairs per second of reading and decoding alone, and of the model alone on all devices.
    pairs : int
        Pairs of the whole pool: as files beside the shards state, else estimated from their size.
    disk : int
        Estimated bytes of the finished score folder.
    """

    model: ModelRecord
    devices: tuple[str, ...]
    workers: int
    shards: int
    shards_tried: int
    nbytes: int
    rows: int
    failures: dict[str, int]
    decoding: float
    encoding: float
    pairs: int
    disk: int

    @property
    def rate(self) -> float:
        """Pairs per second of a run: on a CPU, decoding and encoding share the cores."""
        if self.devices[0].startswith("cpu"):
            return 1 / (1 / self.decoding + 1 / self.encoding)
        return min(self.decoding, self.encoding)

    @property
    def limited_by(self) -> str:
        """What takes longer: ``decoding`` or ``encoding``."""
        return "decoding" if self.decoding < self.encoding else "encoding"

    @property
    def seconds(self) -> float:
        """Time to encode the whole pool; estimating the scores comes on top."""
        return self.pairs / self.rate


@dataclass(frozen=True)
class _Read:
    """Samples from some shards.

    Attributes
    ----------
    every : float
        Samples that the shards hold in all, if the rest of each is like what was read.
    """

    samples: list[Decoded]
    failures: list[Failure]
    every: float
    seconds: float


def try_out(urls: Sequence[str], config: ScoreConfig, pairs: int) -> Trial:
    """Encode some pairs of the shards `urls`, and report what all of them would take.

    Samples come from the beginnings of up to `SHARDS` shards, evenly spread.

    Parameters
    ----------
    pairs : int
        Samples to try.

    Raises
    ------
    InputError, ModelError
        If a shard is missing, the model cannot be loaded, or no sample is usable.
    """
    sizes = [identify(url).nbytes for url in urls]
    devices = usable_devices(config.encode.device)
    encoder = load_encoder(replace(config.encode, device=devices[0]))
    chosen = _spread(len(urls), min(SHARDS, pairs))
    read = _read([(urls[n], sizes[n]) for n in chosen], pairs, encoder, config)
    tried = len(read.samples) + len(read.failures)
    if not read.samples:
        reason, message = "empty shards", "they hold no samples"
        if read.failures:
            reason, message = read.failures[0].reason.value, read.failures[0].message
        raise InputError(
            f"no pair is usable of {tried:,} that were tried: {reason} ({message})",
            "'clipdre doctor' explains each reason; correct `text_key` or `image_key`",
        )
    stated = [stated_count(url, shard_name(url)) for url in urls]
    scale = sum(sizes) / max(1, sum(sizes[n] for n in chosen))
    known = [each.samples for each in stated if each is not None]
    samples = sum(known) if len(known) == len(urls) else read.every * scale
    whole = round(samples * len(read.samples) / tried)
    return Trial(
        model=encoder.record,
        devices=tuple(devices),
        workers=config.encode.workers,
        shards=len(urls),
        shards_tried=len(chosen),
        nbytes=sum(sizes),
        rows=len(read.samples),
        failures=dict(Counter(failure.reason.value for failure in read.failures).most_common()),
        decoding=len(read.samples) / read.seconds,
        encoding=len(devices) * _encoding_rate(read.samples, encoder, config.encode),
        pairs=whole,
        disk=_disk(whole, read.samples, encoder.record, config.estimate),
    )


def _spread(number: int, most: int) -> list[int]:
    """Return up to `most` of the indices below `number`, from the first to the last."""
    return sorted({round(n * (number - 1) / max(1, most - 1)) for n in range(most)})


def _read(
    shards: Sequence[tuple[str, int]], pairs: int, encoder: Encoder, config: ScoreConfig
) -> _Read:
    """Read and decode the first samples of each shard (URL, size), about `pairs` in all."""
    started, every = time.monotonic(), 0.0
    found: list[Decoded | Failure] = []
    with ThreadPoolExecutor(config.encode.workers) as threads:
        for n, (url, size) in enumerate(shards):
            share = -(-(pairs - len(found)) // (len(shards) - n))
            records = list(_first(url, share, config.read))
            ends = [r.offset + (r.nbytes if isinstance(r, Sample) else 0) for r in records]
            nbytes = max(ends, default=0)
            every += len(records) * (size / nbytes if len(records) == share and nbytes else 1)
            found += threads.map(partial(_decoded, encoder=encoder, config=config.read), records)
    failures = [record for record in found if isinstance(record, Failure)]
    samples = [record for record in found if isinstance(record, Decoded)]
    return _Read(samples, failures, every, max(time.monotonic() - started, 1e-9))


def _first(url: str, most: int, config: ReadConfig) -> Iterator[Sample | Failure]:
    records = (r for r in read_samples(url, config) if not isinstance(r, Note))
    yield from islice(records, most)


def _decoded(record: Sample | Failure, encoder: Encoder, config: ReadConfig) -> Decoded | Failure:
    if isinstance(record, Failure):
        return record
    try:
        return decode([record], encoder, config)[0]
    except Exception as error:  # as in a run, whatever one sample does, the others are tried
        message = f"{type(error).__name__}: {error}"
        return Failure(record.key, record.offset, Stage.DECODE, Reason.WORKER_DIED, message)


def _encoding_rate(samples: Sequence[Decoded], encoder: Encoder, config: EncodeConfig) -> float:
    """Return the pairs per second of one device, after a first batch that warms it up."""
    images = InParts(encoder.encode_images, config.batch_size)
    texts = InParts(encoder.encode_texts, CAPTIONS)

    def encode(some: Sequence[Decoded]) -> float:
        started = time.monotonic()
        for start in range(0, len(some), config.batch_size):
            part = some[start : start + config.batch_size]
            torch.cat(images([sample.pixels for sample in part])).cpu()  # waits for the device
        torch.cat(texts([sample.tokens for sample in some])).cpu()
        return time.monotonic() - started

    encode(samples[: config.batch_size if torch.cuda.is_available() else 8])
    return len(samples) / max(encode(samples), 1e-9)


def _disk(
    pairs: int, samples: Sequence[Decoded], model: ModelRecord, config: EstimateConfig
) -> int:
    """Return about how many bytes the scores, embeddings and reference of a pool take."""
    captions = sum(len(s.sample.caption.encode("utf-8", "replace")) for s in samples) / len(samples)
    dim = model.embedding_dim
    vectors = 2 * dim * np.dtype(stored_type(model.inner_product)).itemsize  # of both modalities
    keeps_pool = config.saved is None and config.method is not ReferenceMethod.SAMPLE
    each = ROW_BYTES + 2 * captions + vectors * (1 + keeps_pool)
    return round(pairs * each + 16 * dim**2)  # moments
