"""What could not be scored: for each reason an example, as far as it can be shown."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from clipdre.errors import ClipdreError
from clipdre.formats.folders.folder import FailureExample
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.sources import source_of
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.samples import printable
from clipdre.formats.tars.tar import BrokenTarError, Member, iter_members
from clipdre.looking.samples import thumbnail
from clipdre.looking.text import plain

# Bytes of a shard that are looked at, and of a member that are shown.
READ, SHOWN = 1 << 18, 32


@dataclass(frozen=True)
class Failed:
    """A reason for which samples failed, with an example.

    Attributes
    ----------
    reason : str
    samples : int
    where, message : str
        Shard and key of the example, and what was wrong with it.
    start : str
        First bytes of its image or of its first member, as text; empty if they cannot be read.
    thumbnail : str
        Its image as a data URL; empty if it cannot be read.
    """

    reason: str
    samples: int
    where: str = ""
    message: str = ""
    start: str = ""
    thumbnail: str = ""


def failed(manifest: Manifest, examples: Mapping[str, FailureExample], side: int) -> list[Failed]:
    """Return why samples failed, the most frequent reason first; thumbnails have `side` pixels."""
    found = []
    for reason, samples in manifest.failures.items():
        example = examples.get(reason)
        if example is None:
            found.append(Failed(reason, samples))
            continue
        name, data = _content(manifest, example)
        image = ""
        with suppress(ImageError):
            image = thumbnail(data, manifest.reading, side)
        where = plain(f"{example.shard}/{example.key}".rstrip("/"))
        found.append(
            Failed(reason, samples, where, plain(example.message), _start(name, data), image)
        )
    return found


def _content(manifest: Manifest, example: FailureExample) -> tuple[str, bytes]:
    """Return name and content of the example's image, or of its first member; empty if neither."""
    shard = next(shard for shard in manifest.shards if shard.name == example.shard)
    length = min(READ, shard.nbytes - example.offset)
    try:
        with source_of(shard).opened() as source:
            data = bytes(next(source.read([(example.offset, length)])))
    except ClipdreError:
        return "", b""
    members = [member for member in _members(data) if printable(member.key) == example.key]
    images = [member for member in members if member.suffix in manifest.reading.image_suffixes]
    if not members:
        return "", data
    member = (images or members)[0]
    return member.name, data[member.data : member.data + member.size]


def _members(data: bytes) -> Iterator[Member]:
    """Yield the members at the start of a part of a tar, which may end anywhere."""
    with suppress(BrokenTarError):
        for member in iter_members(io.BytesIO(data)):
            if not isinstance(member, Member):
                return
            yield member


def _start(name: str, data: bytes) -> str:
    """Return the first bytes as numbers and as letters."""
    if not data:
        return ""
    first = data[:SHOWN]
    letters = "".join(chr(b) if 32 <= b < 127 else "." for b in first)
    return f"{plain(name)}: {first.hex(' ')}  {letters}".removeprefix(": ")
