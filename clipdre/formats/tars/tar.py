"""Reads a WebDataset tar as a stream of members with their byte spans, past what is damaged."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from os import SEEK_END
from typing import TYPE_CHECKING, BinaryIO

from clipdre.formats.tars.samples import Reason

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCK = 512
MAGIC, MAGIC_AT = b"ustar", 257
# A header of this size carries no name that anyone gave, and tarfile would hold it in memory.
MAX_EXTENSION = 64 * 1024
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
SEARCHED = 1 << 20
COMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
COMPRESSIONS = {b"\x28\xb5\x2f\xfd": "zstd -d", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}


@dataclass(frozen=True)
class Member:
    """One member of a tar.

    Attributes
    ----------
    key, suffix : str
        The name up to the first dot of its last part, and what follows, in lower case.
    offset, end : int
        Byte span, extension headers (PAX, GNU long names) and padding included.
    size : int
        Bytes of content.
    odd : str
        What it is, where it is no plain file: a link, a device, a sparse file; else empty.
    read : callable
        Gives the content; raises `BrokenTarError` when the archive ends before it does.
    """

    key: str
    suffix: str
    offset: int
    end: int
    size: int
    odd: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Gap:
    """Bytes that are no part of any member; what lay there is lost, what follows is not."""

    offset: int
    end: int
    message: str


class BrokenTarError(Exception):
    """The archive cannot be read from `offset` on."""

    def __init__(self, message: str, offset: int, reason: Reason = Reason.BROKEN_TAR) -> None:
        super().__init__(message)
        self.offset = offset
        self.reason = reason


class _CheckedTarInfo(tarfile.TarInfo):
    """Refuses headers that would send tarfile astray, and keeps the reason why one was none.

    tarfile takes garbage for an end, follows negative sizes backwards, and reads extension headers
    of any size into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:
            raise tarfile.InvalidHeaderError("negative size")  # type: ignore[attr-defined]
        if info.type in EXTENSIONS and info.size > MAX_EXTENSION:
            message = f"extension header of {info.size} bytes"
            raise tarfile.InvalidHeaderError(message)  # type: ignore[attr-defined]
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except (tarfile.TarError, ValueError, RecursionError) as error:
            tar.end_reason = error  # type: ignore[attr-defined]
            if isinstance(error, tarfile.TarError):
                raise
            raise tarfile.SubsequentHeaderError(str(error)) from error  # type: ignore[attr-defined]


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member, as webdataset splits them: at the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def iter_members(file: BinaryIO) -> Iterator[Member | Gap]:
    """Members of a tar in order, folders passed over, and a `Gap` for garbage between them.

    Archives that were put together end to end are read to the last.

    Raises
    ------
    BrokenTarError
        When the archive is no tar, or ends early, or is garbage to its end.
    """
    at = 0
    while True:
        end, reason = yield from _members(file, at)
        if isinstance(reason, tarfile.EmptyHeaderError) and end:  # type: ignore[attr-defined]
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


def _members(file: BinaryIO, at: int) -> Generator[Member, None, tuple[int, Exception | None]]:
    """Members from byte `at` on; returns where no header was, and why."""
    start = end = at
    try:
        file.seek(at)
        tar = tarfile.open(  # noqa: SIM115 (the file is the caller's)
            fileobj=file, mode="r:", tarinfo=_CheckedTarInfo, errors="surrogateescape"
        )
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every member; a shard may hold millions
            start, end = info.offset, tar.offset
            if end <= start:
                raise BrokenTarError(f"a header of byte {start} leads backwards", start)
            if not info.isdir():
                key, suffix = split_name(info.name)
                yield Member(key, suffix, start, end, info.size, _odd(info), _reader(tar, info))
    except tarfile.ReadError as error:
        if _size(file, start) < end:  # the last member reaches past the end: it is the broken one
            raise BrokenTarError(str(error), start) from error
        return end, error
    except COMPRESSION_ERRORS as error:
        raise BrokenTarError(f"the compressed archive is damaged: {error}", start) from error
    return end, getattr(tar, "end_reason", None)


def _size(file: BinaryIO, start: int) -> int:
    try:
        return file.seek(0, SEEK_END)
    except COMPRESSION_ERRORS as error:
        raise BrokenTarError(f"the compressed archive is damaged: {error}", start) from error


def _odd(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "a sparse file"
    if info.issym() or info.islnk():
        return "a symbolic link" if info.issym() else "a hard link"
    return "" if info.isreg() else "a device or of an unknown type"


def _no_header(file: BinaryIO, end: int, reason: str) -> BrokenTarError:
    """Why there is no header at `end`, and none behind it."""
    if end:
        return BrokenTarError(f"no tar header at byte {end}: {reason}", end)
    file.seek(0)
    first = file.read(BLOCK)
    if not first:
        return BrokenTarError("the file is empty", 0, Reason.EMPTY_FILE)
    for magic, cure in COMPRESSIONS.items():
        if first.startswith(magic):
            message = f"the archive is compressed: decompress it ({cure}), or use gzip"
            return BrokenTarError(message, 0, Reason.COMPRESSED_TAR)
    return BrokenTarError(f"this is no tar: {reason}", 0, Reason.NOT_A_TAR)


def _find_header(file: BinaryIO, start: int) -> tuple[int | None, bool]:
    """The first byte from `start` on at which a header is, and whether all before it is zero."""
    file.seek(start)
    held, at, blank = b"", start, True
    while chunk := file.read(SEARCHED):
        held += chunk
        found = held.find(MAGIC)
        while found >= 0:
            header = held[max(0, found - MAGIC_AT) :][:BLOCK]
            if found >= MAGIC_AT and len(header) < BLOCK:
                break  # the rest of it is in the next chunk
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
        _CheckedTarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _reader(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file = tar.fileobj
        assert file is not None  # open for reading
        try:
            file.seek(info.offset_data)
            data = file.read(info.size)
        except COMPRESSION_ERRORS as error:
            message = f"the compressed archive is damaged within {info.name!r}: {error}"
            raise BrokenTarError(message, info.offset) from error
        if len(data) != info.size:
            message = f"the archive ends within {info.name!r}"
            raise BrokenTarError(message, info.offset)
        return data

    return read
