"""Read a tar as a stream of members with their byte spans, continuing after damage."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from os import SEEK_END
from typing import BinaryIO, Self

from clipdre.formats.tars.samples import Reason

BLOCK = 512
# Names that webdataset passes over at the top of an archive, such as ``__meta__``.
META = re.compile(r"__[^/]*__($|/)")
MAGIC, MAGIC_AT = b"ustar", 257
# tarfile reads extension headers into memory, and no real name needs more than this.
MAX_EXTENSION = 64 * 1024
EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# Bytes per step of the search for the next header.
SEARCHED = 1 << 20
COMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)
COMPRESSIONS = {b"\x28\xb5\x2f\xfd": "zstd -d", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}


@dataclass(frozen=True)
class Member:
    """One member of a tar.

    Attributes
    ----------
    name : str
    key, suffix : str
        Name up to the first dot of its last part, and the rest in lower case.
    offset, end : int
        Byte span, including extension headers (PAX, GNU long names) and padding.
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
    end: int
    size: int
    odd: str
    read: Callable[[], bytes]

    @property
    def passed_over(self) -> bool:
        """Whether it belongs to no sample: hidden, or metadata of webdataset.

        macOS writes an AppleDouble member ``._NAME`` before each ``NAME``, and ``.DS_Store``.
        """
        return self.name.rpartition("/")[2].startswith(".") or META.match(self.name) is not None


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


class _CheckedTarInfo(tarfile.TarInfo):
    """A header reader that rejects hostile headers and records why reading stopped.

    On its own, tarfile treats garbage as the end, follows negative sizes backwards, and reads
    extension headers of any size into memory.
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


def _members(file: BinaryIO, at: int) -> Generator[Member, None, tuple[int, Exception | None]]:
    """Yield the members from byte `at` on; return where they end, and why."""
    start = end = at
    try:
        file.seek(at)
        tar = tarfile.open(  # noqa: SIM115 (the file is the caller's)
            fileobj=file, mode="r:", tarinfo=_CheckedTarInfo, errors="surrogateescape"
        )
        while (info := tar.next()) is not None:
            # tarfile remembers every member, and a shard may hold millions.
            tar.members.clear()  # type: ignore[attr-defined]
            start, end = info.offset, tar.offset
            if end <= start:
                raise BrokenTarError(f"the header at byte {start} points backwards", start)
            if not info.isdir():
                name = split_name(info.name)
                yield Member(
                    info.name, *name, start, end, info.size, _odd(info), _reader(tar, info)
                )
    except tarfile.ReadError as error:
        if _size(file, start) < end:  # the last member is the broken one: it is cut short
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
    return "" if info.isreg() else "a special file"


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
