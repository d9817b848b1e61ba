"""Tars as a score folder names them: it may come from a stranger, and names whatever they like.

Only tars that the manifest names are checked here. Those that users name themselves, as shards to
score or with `shards`, may be anywhere.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from clipdre.errors import InputError
from clipdre.formats.files.remote import is_remote, redacted
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.spans import Source

WEB = ("http", "https")
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf")
# Between the protocols of an fsspec URL that opens another URL.
CHAIN = "::"
CURE = "if you trust it, name the tars yourself with `shards`"


def source_of(shard: ShardRecord) -> Source:
    """Return a shard's tar.

    Raises
    ------
    InputError
        If it is neither a local path, nor on the web or in a store, or if it is on a host of this
        machine or of a private network.
    """
    problem = _problem(shard.url) if is_remote(shard.url) else None
    if problem is not None:
        raise InputError(f"the score folder names {redacted(shard.url)}, {problem}", CURE)
    return Source(shard.url, shard.nbytes, shard.modified)


def _problem(url: str) -> str | None:
    protocol = url.partition("://")[0].lower()
    if CHAIN in url or protocol not in (*WEB, *STORES):
        return "which is neither a file, nor on the web or in a store"
    if protocol in WEB and _is_private(_host(url)):
        return "which is on this machine or a private network"
    return None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=1024)  # the shards of a pool share their host
def _is_private(host: str) -> bool:
    """Whether any address of a host is not a public one; no host is private too."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a proxy may know it
        return False
    return not all(map(_is_public, (str(address[0]) for *_, address in found)))


def _is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_global
