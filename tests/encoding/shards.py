"""Small shards and how they are encoded."""

from __future__ import annotations

from pathlib import Path

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.encode import ShardEmbeddings, encode_shard
from clipdre.engines.base import Advance, silent
from clipdre.formats.folders.records import ShardRecord
from clipdre.models.encoder import Encoder
from tests.helpers import Members, write_tar


def shard_of(path: Path, members: Members) -> ShardRecord:
    """Write a shard; return its record before it is encoded."""
    write_tar(path, members)
    return ShardRecord(
        name=path.stem, url=str(path), nbytes=path.stat().st_size, modified="yesterday"
    )


def encoded(
    shard: ShardRecord,
    encoder: Encoder,
    batch_size: int = 10,
    advance: Advance = silent,
    read: ReadConfig | None = None,
) -> ShardEmbeddings:
    """Encode a shard."""
    config = EncodeConfig(batch_size=batch_size, workers=2)
    return encode_shard(shard, encoder, read or ReadConfig(), config, advance)
