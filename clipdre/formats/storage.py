"""Opening sources and committing outputs: a file under its final name is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from clipdre.errors import InputError

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
    """Open a local path or any URL that fsspec knows, for reading, seekable."""
    try:
        if is_remote(url):
            return cast("BinaryIO", fsspec.open(url, "rb").open())
        return open(url, "rb")
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot open {url}: {error}") from error


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
def committed(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` at once, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left: temporary files below `folder`."""
    if not folder.is_dir():
        return
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)
