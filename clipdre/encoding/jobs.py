"""Encoding as work for an engine: some shards in, their files written, their counts out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.encode import ShardEmbeddings, ShardEncoder, commit_shard
from clipdre.encoding.ingest import EmbeddingSource
from clipdre.engines.base import Advance
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.records import ShardRecord
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder

# Bytes of shards that are done together, so that a small one costs little more than its pairs.
TOGETHER = 64 * 1024 * 1024
# Threads that commit shards: most of it is waiting for the disk.
WRITERS = 4


@dataclass(frozen=True)
class ShardJob:
    """A shard to encode, and where its files go."""

    shard: ShardRecord
    files: EmbeddingFiles
    failures: Path
    stamp: dict[str, str]


@dataclass(frozen=True)
class EncodeWork:
    """Encodes shards with a model.

    Attributes
    ----------
    read : ReadConfig
    encode : EncodeConfig
        Its workers are those of one device.
    loaded : Encoder or None
        The model if this process has loaded it already; other processes load their own.
    """

    read: ReadConfig
    encode: EncodeConfig
    loaded: Encoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def start(
        self, device: str, advance: Advance
    ) -> Callable[[Sequence[ShardJob]], list[ShardRecord]]:
        """See `clipdre.engines.base.Work`; an item is one of `together`."""
        loaded = self.loaded or load_encoder(replace(self.encode, device=device))
        encoder = ShardEncoder(loaded, self.read, self.encode, advance)

        def do(jobs: Sequence[ShardJob]) -> list[ShardRecord]:
            found = encoder.encode([job.shard for job in jobs])
            return _committed((jobs[n], shard) for n, shard in found)

        return do


@dataclass(frozen=True)
class IngestWork:
    """Takes over embeddings that were made elsewhere."""

    source: EmbeddingSource

    def start(
        self,
        device: str,  # noqa: ARG002
        advance: Advance,
    ) -> Callable[[Sequence[ShardJob]], list[ShardRecord]]:
        """See `clipdre.engines.base.Work`; an item is one of `together`."""

        def read(jobs: Sequence[ShardJob]) -> Iterator[tuple[ShardJob, ShardEmbeddings]]:
            for job in jobs:
                found = self.source.read(job.shard)
                advance(job.shard.nbytes, found.seen, len(found.failures))
                yield job, found

        return lambda jobs: _committed(read(jobs))


def together(jobs: Iterable[ShardJob]) -> list[list[ShardJob]]:
    """Group jobs that are done together: neighbours of `TOGETHER` bytes, or one large shard."""
    groups: list[list[ShardJob]] = []
    nbytes = 0
    for job in jobs:
        if not groups or nbytes + job.shard.nbytes > TOGETHER:
            groups.append([])
            nbytes = 0
        groups[-1].append(job)
        nbytes += job.shard.nbytes
    return groups


def _committed(found: Iterable[tuple[ShardJob, ShardEmbeddings]]) -> list[ShardRecord]:
    """Write the files of shards while more are encoded; return their records in order."""
    records, running = [], deque[Future[ShardRecord]]()
    with ThreadPoolExecutor(WRITERS) as threads:
        for job, shard in found:
            running.append(
                threads.submit(commit_shard, shard, job.shard, job.files, job.failures, job.stamp)
            )
            if len(running) > WRITERS:
                records.append(running.popleft().result())
        return records + [future.result() for future in running]


def workers_per_device(encode: EncodeConfig, devices: Sequence[str]) -> EncodeConfig:
    """Return the settings with the decoding threads shared among the devices."""
    return replace(encode, workers=max(1, encode.workers // len(devices)))
