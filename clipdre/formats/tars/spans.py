"""Copy samples between tars by byte span: bit-identical, nothing is decoded."""

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
from clipdre.formats.files.content import content_sample
from clipdre.formats.files.remote import is_remote, read_ranges, redacted
from clipdre.formats.files.storage import (
    GZIP_MAGIC,
    SourceIdentity,
    identify,
    is_compressed,
    open_source,
    unescaped_path,
)
from clipdre.formats.files.web import TRUST
from clipdre.formats.tars.headers import BLOCK, parsed, plain_names
from clipdre.formats.tars.samples import printable
from clipdre.formats.tars.tar import (
    COMPRESSION_ERRORS,
    SPARSE_FILE,
    BrokenTarError,
    Gap,
    Member,
    iter_members,
)

RECORD = 20 * BLOCK
TXT = "txt"  # suffix of captions where training tools look for them
# Bytes per read, and the largest gap that is read through instead of sending another request.
CHUNK = 2 * 1024 * 1024
REMOTE_CHUNK = 32 * 1024 * 1024
REMOTE_GAP = 64 * 1024
MAGIC_SPAN = (0, len(GZIP_MAGIC))
MAX_VECTORS = 1024  # what POSIX systems accept in one vectored call
LARGEST = 2**32  # bytes of a sample
SCORE_AGAIN = "score it again"
CHANGED = f"{SCORE_AGAIN}, or name the tars that were scored with `shards`"
MOVED = (
    "check the path; if the pool has moved, or the path was relative, name it with `shards`, or "
    "score its new place into the same folder, which encodes nothing"
)
COPY_AGAIN = "copy or download the shard again"
Span = tuple[int, int]
T = TypeVar("T")
ReadRanges = Callable[[Sequence[Span]], Sequence[bytes]]


def place_of(url: str) -> str:
    """Return where a shard is as tables show it: absolute, without passwords and signatures."""
    if is_remote(url):
        return redacted(url)
    return printable(str(unescaped_path(url).absolute()))


@dataclass(frozen=True)
class Source:
    """A shard as it was when it was scored.

    Attributes
    ----------
    url : str
    nbytes : int
    modified : str or None
        Time of change; None if the shard was moved, so that only its size can be compared.
    sample : str
        Of its content; a shard with another time of change is the same if it has it.
    public : bool
        Whether a web host has to have a public address.
    """

    url: str
    nbytes: int
    modified: str | None
    sample: str = ""
    public: bool = False

    def check(self) -> None:
        """Check that the shard is still the one that was scored.

        Raises
        ------
        InputError
            If it is missing, or its size differs, or its time of change and content.
        """
        try:
            now = identify(self.url, self.public)
        except InputError as error:
            raise InputError(error.problem, TRUST if error.cure == TRUST else MOVED) from error
        if now != SourceIdentity(self.nbytes, self.modified or now.modified) and not (
            now.nbytes == self.nbytes and self.sample and content_sample(self.url) == self.sample
        ):
            raise InputError(
                f"{redacted(self.url)} has changed since it was scored "
                f"({now.difference(self.nbytes)})",
                CHANGED,
            )

    def _ranges(self, runs: Sequence[Span]) -> Sequence[bytes]:
        return read_ranges(self.url, runs, self.public)

    @contextmanager
    def opened(self, gap: int = REMOTE_GAP) -> Iterator[SpanReader]:
        """Check the shard and open it to read spans.

        Parameters
        ----------
        gap : int
            Largest gap between spans of a remote shard that is read through.

        Raises
        ------
        InputError
            If it is not what was scored, or cannot be opened.
        """
        self.check()
        name = redacted(self.url)
        if is_remote(self.url) and self._ranges([MAGIC_SPAN]) != [GZIP_MAGIC]:
            yield SpanReader(name, self.nbytes, self._ranges, gap, remote=True)
            return
        with open_source(self.url, self.public) as file:
            size = None if is_compressed(file) else self.nbytes
            yield SpanReader(name, size, lambda runs: [_read(file, name, *run) for run in runs], 0)


@dataclass(frozen=True)
class SpanReader:
    """Reads spans of one shard.

    Attributes
    ----------
    name : str
        Name of the shard in messages.
    size : int or None
        Bytes of the shard; None if it is compressed.
    ranges : callable
        Reads spans that lie apart.
    gap : int
        Largest gap between spans that is read through.
    remote : bool
        Whether each call of `ranges` waits for a server, so that it should ask for many bytes.
    """

    name: str
    size: int | None
    ranges: ReadRanges
    gap: int
    remote: bool = False

    def read(self, spans: Sequence[Span]) -> Iterator[memoryview]:
        """Yield the bytes of ascending (offset, nbytes) spans, of which neighbours may be the same.

        Raises
        ------
        InputError
            If the source ends before a span does, or spans do not ascend.
        """
        _check(spans, self.size, self.name)
        for group in _groups(spans, itemgetter(1), REMOTE_CHUNK if self.remote else CHUNK):
            runs = list(coalesced(group, self.gap))
            data = self.ranges(runs)
            run = 0
            for offset, nbytes in group:
                while offset >= runs[run][0] + runs[run][1]:
                    run += 1
                start = offset - runs[run][0]
                view = memoryview(data[run])[start : start + nbytes]
                if len(view) < nbytes:
                    raise InputError(f"{self.name} ends before byte {offset + nbytes}", CHANGED)
                yield view


def _check(spans: Sequence[Span], size: int | None, name: str) -> None:
    """Refuse spans that a shard cannot have: scores may come from strangers."""
    reached, last = 0, None
    for offset, nbytes in spans:
        if (offset, nbytes) == last:  # rows of several captions share a sample
            continue
        last = offset, nbytes
        known = offset is not None and nbytes is not None
        if not known or offset < reached or not 1 <= nbytes <= LARGEST:
            raise InputError(f"the scores do not say where the samples of {name} are", SCORE_AGAIN)
        reached = offset + nbytes
        if size is not None and reached > size:
            raise InputError(f"{name} ends before byte {reached}", CHANGED)


def _read(file: BinaryIO, name: str, offset: int, nbytes: int) -> bytes:
    try:
        if is_compressed(file):
            file.seek(offset)
            return file.read(nbytes)
        return os.pread(file.fileno(), nbytes, offset)
    except (OSError, *COMPRESSION_ERRORS) as error:
        raise InputError(f"cannot read {name} at byte {offset}: {error}", COPY_AGAIN) from error


def write_samples(out: FileIO, samples: Iterable[memoryview | bytes]) -> int:
    """Write samples to an unbuffered file without joining them; return the bytes written."""
    written = 0
    for group in _groups(samples, len, CHUNK):
        total = sum(map(len, group))
        done = os.writev(out.fileno(), group)
        if done < total:  # the system may write less than asked
            rest = memoryview(b"".join(group))[done:]
            while rest:
                rest = rest[out.write(rest) :]
        written += total
    return written


def _groups(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Yield items in groups of about `limit` bytes, few enough for one vectored call."""
    group: list[T] = []
    held = 0
    for item in items:
        group.append(item)
        held += size(item)
        if held >= limit or len(group) == MAX_VECTORS:
            yield group
            group, held = [], 0
    if group:
        yield group


def coalesced(spans: Iterable[Span], gap: int = 0) -> Iterator[Span]:
    """Join ascending (offset, nbytes) spans that are at most `gap` bytes apart."""
    start = stop = -1
    for offset, nbytes in spans:
        if stop < 0 or offset > stop + gap:
            if stop > start:
                yield start, stop - start
            start = offset
        stop = offset + nbytes
    if stop > start:
        yield start, stop - start


def gap_within(spans: Sequence[Span], share: float) -> int:
    """Return the largest gap to read through, so that gaps add at most a share of the spans."""
    left = share * sum(nbytes for _, nbytes in spans)
    ends = (offset + nbytes for offset, nbytes in spans)
    widest = 0
    for gap in sorted(start - end for end, (start, _) in zip(ends, spans[1:], strict=False)):
        left -= max(gap, 0)
        if left < 0:
            # As wide as the last that fits; those of the same width may not all fit.
            return min(widest, gap - 1)
        widest = max(widest, gap)
    return widest


def checked(span: memoryview, key: str, shard: str) -> memoryview:
    """Return the sample `key` of a span that begins with a header of it.

    That is `span` itself, or a copy without the members that are passed over: outside their own
    tar, webdataset might take them for a part of a sample.

    Raises
    ------
    InputError
        If there is another header: the shard was replaced, although size and time of change agree.
    """
    # The fast path: a span of another kind is taken apart below.
    names, end = plain_names(lambda at: bytes(span[at : at + BLOCK]))
    start = f"{key}."
    if names and end == len(span) and all(name.startswith(start) for name in names):
        return span
    members = _members(span)
    keys = [printable(member.key) for member in members]
    if set(keys) != {key}:
        there = next((repr(found) for found in keys if found != key), "no tar header")
        raise InputError(
            f"{shard} has changed since it was scored: where {key!r} was, there is {there}",
            CHANGED,
        )
    kept = [span[member.offset : member.end] for member in members]
    return span if sum(map(len, kept)) == len(span) else memoryview(b"".join(kept))


def _members(span: memoryview | bytes) -> list[Member]:
    """Return the members of a sample; none if the span is damaged."""
    try:
        found = list(iter_members(io.BytesIO(span)))
    except BrokenTarError:
        return []
    if any(isinstance(part, Gap) for part in found):
        return []
    return [part for part in found if isinstance(part, Member) and not part.passed_over]


def contents(span: memoryview, key: str, shard: str) -> dict[str, bytes]:
    """Return the files of the sample `key` in a span, by suffix, as webdataset does.

    Members that are not regular files are left out.

    Raises
    ------
    InputError
        As `checked`.
    """
    data = checked(span, key, shard)
    return {m.suffix: m.read() for m in _members(data) if not m.odd}


def captioned(span: memoryview | bytes, caption: str) -> memoryview | bytes:
    """Return the sample in `span` with `caption` as its only ``txt`` member.

    The other members stay as they are; so does the whole sample if it has that caption.
    """
    members, data = _members(span), caption.encode()
    old = [member for member in members if member.suffix == TXT]
    if len(old) == 1 and not old[0].odd and old[0].read() == data:
        return span
    kept = [span[member.offset : member.end] for member in members if member.suffix != TXT]
    info = tarfile.TarInfo(f"{members[0].name[: len(members[0].key)]}.{TXT}")
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return b"".join([*kept, header, data, b"\0" * (-len(data) % BLOCK)])


def renamed(span: memoryview | bytes, key: str, shard: str) -> bytes:
    """Return the sample in `span` under another key: new headers, the same contents.

    Raises
    ------
    InputError
        If a member cannot be rewritten because it is a sparse file.
    """
    out = bytearray()
    for member in _members(span):
        if member.odd == SPARSE_FILE:
            raise InputError(
                f"{member.name!r} in {shard} is a sparse file and cannot be renamed",
                "write the file itself into the tar",
            )
        # Without its extension headers: they would override the new name.
        info = parsed(bytes(span[member.data - BLOCK : member.data]))
        info.name = key + member.name[len(member.key) :]
        info.size = member.size
        out += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        out += span[member.data : member.end]
    return bytes(out)


def end_archive(out: BinaryIO, written: int) -> None:
    """End a tar of `written` bytes with two zero blocks, padded to a full record."""
    out.write(b"\0" * (2 * BLOCK + -(written + 2 * BLOCK) % RECORD))
