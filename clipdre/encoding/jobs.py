"""Encoding as work for an engine: some shards in, their files written, their counts out."""

from __future__ import annotations

import socket
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
from clipdre.errors import ModelError
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.records import ModelRecord, ShardRecord
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
    expected : ModelRecord or None
        Of the run; on another machine the same name may stand for another model.
    """

    read: ReadConfig
    encode: EncodeConfig
    loaded: Encoder | None = None
    expected: ModelRecord | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def start(
        self, device: str, advance: Advance
    ) -> Callable[[Sequence[ShardJob]], list[ShardRecord]]:
        """See `clipdre.engines.base.Work`; an item is one of `together`."""
        loaded = self.loaded or load_encoder(replace(self.encode, device=device))
        if self.expected is not None:
            _check_same(self.expected, loaded.record)
        encoder = ShardEncoder(loaded, self.read, self.encode, advance)

        def do(jobs: Sequence[ShardJob]) -> list[ShardRecord]:
            found = encoder.encode([job.shard for job in jobs])
            return _committed((jobs[n], shard) for n, shard in found)

        return do


@dataclass(frozen=True)
class RecordWork:
    """Loads a model on a worker, for its record: precision depends on the worker's device."""

    encode: EncodeConfig

    def start(
        self,
        device: str,
        advance: Advance,  # noqa: ARG002
    ) -> Callable[[None], ModelRecord]:
        """See `clipdre.engines.base.Work`."""
        record = load_encoder(replace(self.encode, device=device)).record
        return lambda _: record


def _check_same(expected: ModelRecord, found: ModelRecord) -> None:
    """Refuse to encode with another model than the run's."""
    difference = expected.redefined(found)
    for name in ("precision", "digest"):
        before, now = getattr(expected, name), getattr(found, name)
        if before != now:
            difference = f"{name} ({before} on the first worker, {now} here)"
    if difference is not None:
        raise ModelError(
            f"on node {socket.gethostname()}, model {found.name} differs in {difference}",
            "install the same versions and weights on every node",
        )


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
