"""Copies byte spans of tars: samples come out as they went in, nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from clipdre.errors import InputError
from clipdre.formats.storage import SourceIdentity, identify, open_source

BLOCK = 512
RECORD = 20 * BLOCK
CHUNK = 4 * 1024 * 1024
Span = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """A shard as it was when it was scored."""

    url: str
    nbytes: int
    modified: str

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the shard; `InputError` when it is gone or no longer what was scored."""
        now = identify(self.url)
        if now != SourceIdentity(self.nbytes, self.modified):
            raise InputError(
                f"{self.url} has changed since it was scored ({self.nbytes} bytes then, "
                f"{now.nbytes} now, or another time of change): score it again"
            )
        with open_source(self.url) as file:
            yield file


def coalesced(spans: Iterable[Span]) -> Iterator[Span]:
    """Ascending (offset, nbytes) spans with those that touch joined."""
    start = stop = -1
    for offset, nbytes in spans:
        if offset != stop:
            if stop > start:
                yield start, stop - start
            start = offset
        stop = offset + nbytes
    if stop > start:
        yield start, stop - start


def copy_spans(source: BinaryIO, spans: Iterable[Span], out: BinaryIO) -> int:
    """Copy ascending spans of `source` to `out`; returns the bytes written.

    Raises
    ------
    InputError
        When the source ends before a span does.
    """
    written = 0
    for offset, nbytes in coalesced(spans):
        source.seek(offset)
        left = nbytes
        while left:
            chunk = source.read(min(left, CHUNK))
            if not chunk:
                name = getattr(source, "name", "a source shard")
                raise InputError(f"{name} ends before byte {offset + nbytes}: score it again")
            out.write(chunk)
            left -= len(chunk)
        written += nbytes
    return written


def end_archive(out: BinaryIO, written: int) -> None:
    """End a tar of `written` bytes: two zero blocks, filled up to a whole record."""
    out.write(b"\0" * (2 * BLOCK + -(written + 2 * BLOCK) % RECORD))
