"""Opening sources and committing outputs: a file under its final name is whole."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from clipdre.errors import InputError, OutputError

GZIP_MAGIC = b"\x1f\x8b"
TEMPORARY_PREFIX = ".unfinished-"


@dataclass(frozen=True)
class SourceIdentity:
    """What tells that a source is still the one that was read: bytes and time of change."""

    nbytes: int
    modified: str


def is_remote(url: str) -> bool:
    """Whether `url` names something that fsspec, not the local file system, opens."""
    return "://" in url


def open_source(url: str) -> BinaryIO:
    """Open a local path or any URL that fsspec knows, for reading, seekable.

    What is compressed by gzip is read as what it was before.
    """
    try:
        file = fsspec.open(url, "rb").open() if is_remote(url) else open(url, "rb")  # noqa: SIM115
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        return cast("BinaryIO", _Gunzipped(file) if compressed else file)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot open {url}: {error}") from error


def is_compressed(file: BinaryIO) -> bool:
    """Whether `file`, from `open_source`, is decompressed as it is read: bytes have no address."""
    return isinstance(file, _Gunzipped)


class _Gunzipped(gzip.GzipFile):
    """Closes the compressed file with itself."""

    def __init__(self, compressed: BinaryIO) -> None:
        super().__init__(fileobj=compressed, mode="rb")
        self._compressed = compressed

    def close(self) -> None:
        super().close()
        self._compressed.close()


def read_ranges(url: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes of (offset, nbytes) spans of a remote source, asked for together."""
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        starts = [offset for offset, _ in spans]
        ends = [offset + nbytes for offset, nbytes in spans]
        found = filesystem.cat_ranges([path] * len(spans), starts, ends, on_error="raise")
        return [bytes(data) for data in found]
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot read {url}: {error}") from error


def identify(url: str) -> SourceIdentity:
    """Size and time of change of a source."""
    try:
        if not is_remote(url):
            stat = Path(url).stat()
            return SourceIdentity(stat.st_size, str(stat.st_mtime_ns))
        filesystem, path = fsspec.core.url_to_fs(url)
        info = filesystem.info(path)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot find {url}: {error}") from error
    stamps = (info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created"))
    return SourceIdentity(int(info["size"]), str(next((s for s in stamps if s), "")))


@contextmanager
def committed(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` at once, else it goes.

    What is `durable` survives a loss of power as well, at the price of waiting for the disk.

    Raises
    ------
    OutputError
        When it cannot be written: the disk is full, the folder is read-only.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what is there is whole, so mend "
            "this and give the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left: temporary files below `folder`."""
    if not folder.is_dir():
        return
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)
