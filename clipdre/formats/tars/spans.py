"""Byte spans of tars: samples come out as they went in, nothing is decoded."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from operator import itemgetter
from typing import BinaryIO, TypeVar

from clipdre.errors import InputError
from clipdre.formats.files.remote import is_remote, read_ranges, redacted
from clipdre.formats.files.storage import (
    GZIP_MAGIC,
    SourceIdentity,
    identify,
    is_compressed,
    open_source,
)
from clipdre.formats.tars.samples import printable
from clipdre.formats.tars.tar import (
    COMPRESSION_ERRORS,
    BrokenTarError,
    Member,
    iter_members,
    split_name,
)

BLOCK = 512
RECORD = 20 * BLOCK
# Where a header holds its type and the first part of a long name, and the length of its name.
TYPE, PREFIX, NAME = 156, 345, 100
REGULAR = ord("0")
# What is read at once, and the gap between spans that is read through rather than asked for again.
CHUNK = 2 * 1024 * 1024
REMOTE_CHUNK = 32 * 1024 * 1024
REMOTE_GAP = 64 * 1024
MAGIC_SPAN = (0, len(GZIP_MAGIC))
MOST_AT_ONCE = 1024  # what POSIX systems take in one vectored call
Span = tuple[int, int]
T = TypeVar("T")
ReadRanges = Callable[[Sequence[Span]], Sequence[bytes]]


@dataclass(frozen=True)
class Source:
    """A shard as it was when it was scored."""

    url: str
    nbytes: int
    modified: str | None
    """Time of change; None where the shard was moved and only its size is known."""

    def check(self) -> None:
        """`InputError` when the shard is gone or no longer what was scored."""
        now = identify(self.url)
        if now != SourceIdentity(self.nbytes, self.modified or now.modified):
            raise InputError(
                f"{redacted(self.url)} has changed since it was scored ({self.nbytes} bytes then, "
                f"{now.nbytes} now, or another time of change): score it again"
            )

    @contextmanager
    def opened(self) -> Iterator[SpanReader]:
        """Open the shard to read spans; `InputError` when it is not what was scored."""
        self.check()
        name = redacted(self.url)
        if is_remote(self.url) and read_ranges(self.url, [MAGIC_SPAN]) != [GZIP_MAGIC]:
            yield SpanReader(name, lambda runs: read_ranges(self.url, runs), REMOTE_GAP)
            return
        with open_source(self.url) as file:
            yield SpanReader(name, lambda runs: [_read(file, name, *run) for run in runs], 0)


@dataclass(frozen=True)
class SpanReader:
    """Reads spans of one shard; `name` is what messages call it."""

    name: str
    ranges: ReadRanges
    gap: int

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """The bytes of ascending (offset, nbytes) spans, one after the other.

        Raises
        ------
        InputError
            When the source ends before a span does.
        """
        for group in _groups(spans, itemgetter(1), REMOTE_CHUNK if self.gap else CHUNK):
            runs = list(coalesced(group, self.gap))
            data = self.ranges(runs)
            run = 0
            for offset, nbytes in group:
                while offset >= runs[run][0] + runs[run][1]:
                    run += 1
                start = offset - runs[run][0]
                view = memoryview(data[run])[start : start + nbytes]
                if len(view) < nbytes:
                    raise InputError(
                        f"{self.name} ends before byte {offset + nbytes}: score it again"
                    )
                yield view


def _read(file: BinaryIO, name: str, offset: int, nbytes: int) -> bytes:
    try:
        if is_compressed(file):
            file.seek(offset)
            return file.read(nbytes)
        return os.pread(file.fileno(), nbytes, offset)
    except (OSError, *COMPRESSION_ERRORS) as error:
        raise InputError(f"cannot read {name} at byte {offset}: {error}") from error


def write_samples(out: FileIO, samples: Iterable[memoryview | bytes]) -> int:
    """Write samples to an unbuffered file, many at a time without joining them; bytes written."""
    written = 0
    for group in _groups(samples, len, CHUNK):
        total = sum(map(len, group))
        done = os.writev(out.fileno(), group)
        if done < total:  # the system took a part, as it may
            rest = memoryview(b"".join(group))[done:]
            while rest:
                rest = rest[out.write(rest) :]
        written += total
    return written


def _groups(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Items in groups of about `limit` bytes, and few enough for one call of the system."""
    group: list[T] = []
    held = 0
    for item in items:
        group.append(item)
        held += size(item)
        if held >= limit or len(group) == MOST_AT_ONCE:
            yield group
            group, held = [], 0
    if group:
        yield group


def coalesced(spans: Iterable[Span], gap: int = 0) -> Iterator[Span]:
    """Ascending (offset, nbytes) spans, with those joined that are at most `gap` bytes apart."""
    start = stop = -1
    for offset, nbytes in spans:
        if stop < 0 or offset > stop + gap:
            if stop > start:
                yield start, stop - start
            start = offset
        stop = offset + nbytes
    if stop > start:
        yield start, stop - start


def checked(span: memoryview, key: str, shard: str) -> memoryview:
    """`span` when it begins with a header of `key`.

    Raises
    ------
    InputError
        When it does not: the shard is no longer what was scored, though size and time agree.
    """
    start = key.encode() + b"."
    # Where the header is of a plain file with a short name, all is there to see.
    plain = len(span) >= BLOCK and span[TYPE] == REGULAR and not span[PREFIX]
    if plain and len(start) < NAME and span[: len(start)] == start:
        return span
    found = _first_key(span)
    if found != key:
        raise InputError(
            f"{shard} has changed since it was scored: where {key!r} was, "
            f"{'no tar header' if found is None else repr(found)} is now; score it again"
        )
    return span


def _first_key(span: memoryview) -> str | None:
    try:
        first = next(iter_members(io.BytesIO(span)))
    except (BrokenTarError, StopIteration):
        return None
    return printable(first.key) if isinstance(first, Member) else None


def renamed(span: memoryview, key: str, shard: str) -> bytes:
    """The sample of `span` under another key: new headers, the same contents.

    Raises
    ------
    InputError
        When a member cannot be written anew (sparse files).
    """
    out = bytearray()
    with tarfile.open(fileobj=io.BytesIO(span), mode="r:", errors="surrogateescape") as tar:
        for info in tar:
            if info.issparse():
                raise InputError(f"{shard}: {info.name!r} is sparse and cannot be renamed")
            _, dot, suffix = info.name[len(split_name(info.name)[0]) :].partition(".")
            info.name = key + dot + suffix
            headers = dict(info.pax_headers)
            headers.pop("path", None)  # it would win over the new name
            info.pax_headers = headers
            size = -(-info.size // BLOCK) * BLOCK if info.isreg() else 0
            out += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            out += span[info.offset_data : info.offset_data + size]
    return bytes(out)


def end_archive(out: BinaryIO, written: int) -> None:
    """End a tar of `written` bytes: two zero blocks, filled up to a whole record."""
    out.write(b"\0" * (2 * BLOCK + -(written + 2 * BLOCK) % RECORD))
