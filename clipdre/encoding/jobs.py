"""Encoding as work for an engine: a shard in, its files written, its counts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.encode import commit_shard, encode_shard
from clipdre.encoding.ingest import EmbeddingSource
from clipdre.engines.base import Advance
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.records import ShardRecord
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder


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

    def start(self, device: str, advance: Advance) -> Callable[[ShardJob], ShardRecord]:
        """See `clipdre.engines.base.Work`."""
        encoder = self.loaded or load_encoder(replace(self.encode, device=device))

        def do(job: ShardJob) -> ShardRecord:
            found = encode_shard(job.shard, encoder, self.read, self.encode, advance)
            return commit_shard(found, job.shard, job.files, job.failures, job.stamp)

        return do


@dataclass(frozen=True)
class IngestWork:
    """Takes over embeddings that were made elsewhere."""

    source: EmbeddingSource

    def start(self, device: str, advance: Advance) -> Callable[[ShardJob], ShardRecord]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`."""

        def do(job: ShardJob) -> ShardRecord:
            found = self.source.read(job.shard)
            advance(job.shard.nbytes, found.seen)
            return commit_shard(found, job.shard, job.files, job.failures, job.stamp)

        return do


def workers_per_device(encode: EncodeConfig, devices: Sequence[str]) -> EncodeConfig:
    """Return the settings with the decoding threads shared among the devices."""
    return replace(encode, workers=max(1, encode.workers // len(devices)))
