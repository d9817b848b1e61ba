"""Small shards and how they are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.encode import ShardEmbeddings, ShardEncoder
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


def encoded(shard: ShardRecord, encoder: Encoder, *args: Any, **kwargs: Any) -> ShardEmbeddings:
    """Encode a shard; see `encoded_together`."""
    return encoded_together([shard], encoder, *args, **kwargs)[0]


def encoded_together(
    shards: Sequence[ShardRecord],
    encoder: Encoder,
    batch_size: int = 10,
    advance: Advance = silent,
    read: ReadConfig | None = None,
) -> list[ShardEmbeddings]:
    """Encode shards in batches that span them; return what each gave."""
    config = EncodeConfig(batch_size=batch_size, workers=2)
    found = dict(ShardEncoder(encoder, read or ReadConfig(), config, advance).encode(shards))
    return [found[n] for n in range(len(shards))]
