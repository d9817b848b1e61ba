"""Reads a WebDataset tar as a stream of members with their byte spans."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import SEEK_END
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Self

# Two zero blocks, or the end of the file where a header would be.
END_OF_ARCHIVE = (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)  # type: ignore[attr-defined]
COMPRESSION_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Member:
    """One regular file of a tar.

    Attributes
    ----------
    key, suffix : str
        The name up to the first dot of its last part, and what follows, in lower case.
    offset, end : int
        Byte span, extension headers (PAX, GNU long names) and padding included.
    size : int
        Bytes of content.
    read : callable
        Gives the content; raises `BrokenTarError` when the archive ends before it does.
    """

    key: str
    suffix: str
    offset: int
    end: int
    size: int
    read: Callable[[], bytes]


class BrokenTarError(Exception):
    """The archive cannot be read from `offset` on."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class _TracingTarInfo(tarfile.TarInfo):
    """Keeps the reason why the last header was none: tarfile itself takes garbage for an end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.TarError as error:
            tar.end_reason = error  # type: ignore[attr-defined]
            raise


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix of a member, as webdataset splits them: at the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def iter_members(file: BinaryIO) -> Iterator[Member]:
    """Regular members of a tar in order; links, folders and devices are passed over.

    Raises
    ------
    BrokenTarError
        When the archive is no tar, ends early, or holds garbage where a header should be.
    """
    start = end = 0
    try:
        tar = tarfile.open(  # noqa: SIM115 (the file is the caller's)
            fileobj=file, mode="r:", tarinfo=_TracingTarInfo, errors="surrogateescape"
        )
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every member; a shard may hold millions
            start, end = info.offset, tar.offset
            if info.isreg():
                key, suffix = split_name(info.name)
                yield Member(key, suffix, start, end, info.size, _reader(tar, info))
    except tarfile.TarError as error:
        # Where the last member reaches past the end of the file, it is the broken one.
        raise BrokenTarError(str(error), start if file.seek(0, SEEK_END) < end else end) from error
    except COMPRESSION_ERRORS as error:
        raise BrokenTarError(f"the compressed archive is damaged: {error}", start) from error
    reason = getattr(tar, "end_reason", None)
    if not isinstance(reason, END_OF_ARCHIVE):
        raise BrokenTarError(f"no tar header at byte {end}: {reason}", end)


def _reader(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        content = tar.extractfile(info)
        assert content is not None  # regular members have content
        try:
            data = content.read()
        except tarfile.ReadError:
            data = b""
        except COMPRESSION_ERRORS as error:
            message = f"the compressed archive is damaged within {info.name!r}: {error}"
            raise BrokenTarError(message, info.offset) from error
        if len(data) != info.size:
            message = f"the archive ends within {info.name!r}"
            raise BrokenTarError(message, info.offset)
        return data

    return read
