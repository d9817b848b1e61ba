"""Tars as a score folder names them: it may come from a stranger, and names whatever they like.

Only tars that the manifest names are checked here. Those that users name themselves, as shards to
score or with `shards`, may be anywhere.
"""

from __future__ import annotations

from clipdre.errors import InputError
from clipdre.formats.files.remote import is_remote, redacted
from clipdre.formats.files.web import TRUST, WEB
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.spans import Source

STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf")
# Between the protocols of an fsspec URL that opens another URL.
CHAIN = "::"


def source_of(shard: ShardRecord) -> Source:
    """Return a shard's tar, which opens only if it is not on a private host.

    Raises
    ------
    InputError
        If it is neither a local path, nor on the web or in a store.
    """
    if is_remote(shard.url):
        protocol = shard.url.partition("://")[0].lower()
        if CHAIN in shard.url or protocol not in (*WEB, *STORES):
            raise InputError(
                f"the score folder names {redacted(shard.url)}, which is neither a file, nor on "
                "the web or in a store",
                TRUST,
            )
    return Source(shard.url, shard.nbytes, shard.modified, shard.sample, public=True)
