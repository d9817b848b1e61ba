"""Read a tar as a stream of members with their byte spans, continuing after damage."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

from clipdre.formats.tars.headers import BLOCK, GLOBAL, Header, parsed, read_header
from clipdre.formats.tars.samples import Reason

# Names that webdataset passes over at the top of an archive, such as ``__meta__``.
META = re.compile(r"__[^/]*__($|/)")
SPARSE_FILE, GLOBAL_HEADER = "a sparse file", "a global header"
ODD = {
    **dict.fromkeys(tarfile.REGULAR_TYPES, ""),
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    GLOBAL: GLOBAL_HEADER,
}
MAGIC, MAGIC_AT = b"ustar", 257
# Bytes per step of the search for the next header.
SEARCHED = 1 << 20
COMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
COMPRESSIONS = {b"\x28\xb5\x2f\xfd": "zstd -d", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}


class Member(NamedTuple):
    """One member of a tar.

    Attributes
    ----------
    name : str
    key, suffix : str
        Name up to the first dot of its last part, and the rest in lower case.
    offset, data, end : int
        Byte span, including extension headers (PAX, GNU long names) and padding, and where in it
        the content begins.
    size : int
        Size of the content in bytes.
    odd : str
        Kind of a member that is not a regular file, such as "a hard link"; empty for files.
    read : callable
        Returns the content; raises `BrokenTarError` if the archive ends within it.
    """

    name: str
    key: str
    suffix: str
    offset: int
    data: int
    end: int
    size: int
    odd: str
    read: Callable[[], bytes]

    @property
    def passed_over(self) -> bool:
        """Whether it belongs to no sample: hidden, metadata of webdataset, or a global header.

        macOS writes an AppleDouble member ``._NAME`` before each ``NAME``, and ``.DS_Store``.
        """
        hidden = self.name.rpartition("/")[2].startswith(".")
        return hidden or META.match(self.name) is not None or self.odd == GLOBAL_HEADER


@dataclass(frozen=True)
class NoEnd:
    """The end of an archive without its end-of-archive marker: it may have been cut off there."""

    offset: int


@dataclass(frozen=True)
class Gap:
    """Bytes that belong to no member: their content is lost, but reading continues after them."""

    offset: int
    end: int
    message: str


class BrokenTarError(Exception):
    """An archive that cannot be read from `offset` on."""

    def __init__(self, message: str, offset: int, reason: Reason = Reason.BROKEN_TAR) -> None:
        super().__init__(message)
        self.offset = offset
        self.reason = reason


def split_name(name: str) -> tuple[str, str]:
    """Split a name into key and suffix at the first dot of its last part, as webdataset does."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def iter_members(file: BinaryIO) -> Iterator[Member | Gap | NoEnd]:
    """Yield the members of a tar in order, except folders, and a `Gap` for garbage between them.

    Concatenated archives are read to the end of the last one. If not even one zero block follows
    its members, a `NoEnd` comes last.

    Raises
    ------
    BrokenTarError
        If the file is not a tar, ends early, or is garbage up to its end.
    """
    at = 0
    while True:
        end, reason = yield from _members(file, at)
        if isinstance(reason, tarfile.EmptyHeaderError) and end:  # type: ignore[attr-defined]
            yield NoEnd(end)
            return
        ended = isinstance(reason, tarfile.EOFHeaderError)  # type: ignore[attr-defined]
        try:
            found, blank = _find_header(file, end if ended else end + 1)
        except COMPRESSION_ERRORS as error:
            raise BrokenTarError(f"the compressed archive is damaged: {error}", end) from error
        if found is None:
            if ended:
                return
            raise _no_header(file, end, str(reason))
        if not ended or not blank:
            yield Gap(end, found, f"no tar header at byte {end}: {reason}")
        at = found


def _members(
    file: BinaryIO, at: int
) -> Generator[Member | Gap, None, tuple[int, tarfile.HeaderError]]:
    """Yield the members from byte `at` on; return where they end, and why."""
    start = at
    file.seek(at)
    while True:
        try:
            header = read_header(_first_block(file, at, start), at, file.read)
        except tarfile.HeaderError as reason:
            return at, reason
        except COMPRESSION_ERRORS as error:
            raise BrokenTarError(f"the compressed archive is damaged: {error}", start) from error
        start, at = at, header.end
        if header.problem:
            yield Gap(start, at, header.problem)
        elif header.type != tarfile.DIRTYPE:
            key, suffix = split_name(header.name)
            place = start, header.data, at, header.size
            yield Member(
                header.name, key, suffix, *place, _odd(header), partial(_content, file, header)
            )


def _first_block(file: BinaryIO, at: int, start: int) -> bytes:
    """Return the block at `at`; `BrokenTarError` if the member at `start` is cut short."""
    if file.tell() == at:
        return file.read(BLOCK)
    file.seek(at - 1)
    block = file.read(1 + BLOCK)
    if not block:
        raise BrokenTarError("unexpected end of data", start)
    return block[1:]


def _odd(header: Header) -> str:
    return SPARSE_FILE if header.sparse else ODD.get(header.type, "a special file")


def _no_header(file: BinaryIO, end: int, reason: str) -> BrokenTarError:
    """Return the error for an archive without any header from byte `end` on."""
    if end:
        return BrokenTarError(f"no tar header at byte {end}: {reason}", end)
    file.seek(0)
    first = file.read(BLOCK)
    if not first:
        return BrokenTarError("the file is empty", 0, Reason.EMPTY_FILE)
    for magic, cure in COMPRESSIONS.items():
        if first.startswith(magic):
            message = f"the archive is compressed; decompress it ({cure}), or use gzip"
            return BrokenTarError(message, 0, Reason.COMPRESSED_TAR)
    return BrokenTarError(f"not a tar: {reason}", 0, Reason.NOT_A_TAR)


def _find_header(file: BinaryIO, start: int) -> tuple[int | None, bool]:
    """Return the offset of the first header from `start` on, and whether only zeros precede it."""
    file.seek(start)
    held, at, blank = b"", start, True
    while chunk := file.read(SEARCHED):
        held += chunk
        found = held.find(MAGIC)
        while found >= 0:
            header = held[max(0, found - MAGIC_AT) :][:BLOCK]
            if found >= MAGIC_AT and len(header) < BLOCK:
                break  # the rest of the header is in the next chunk
            if found >= MAGIC_AT and _is_header(header):
                return at + found - MAGIC_AT, blank and not any(held[: found - MAGIC_AT])
            found = held.find(MAGIC, found + 1)
        kept = held[-BLOCK:]
        blank = blank and not any(held[: len(held) - len(kept)])
        at += len(held) - len(kept)
        held = kept
    return None, blank and not any(held)


def _is_header(block: bytes) -> bool:
    try:
        parsed(block)
    except tarfile.HeaderError:
        return False
    return True


def _content(file: BinaryIO, header: Header) -> bytes:
    try:
        file.seek(header.data)
        data = file.read(header.size)
    except COMPRESSION_ERRORS as error:
        message = f"the compressed archive is damaged within {header.name!r}: {error}"
        raise BrokenTarError(message, header.start) from error
    if len(data) != header.size:
        raise BrokenTarError(f"the archive ends within {header.name!r}", header.start)
    return data
