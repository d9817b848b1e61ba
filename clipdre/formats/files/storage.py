"""Opening sources and committing outputs: a file under its final name is whole."""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.remote import RemoteFile, identify_remote, is_remote

GZIP_MAGIC = b"\x1f\x8b"
TEMPORARY_PREFIX = ".unfinished-"
# Temporary files of this process, for `abandon`.
_unfinished: set[Path] = set()


@dataclass(frozen=True)
class SourceIdentity:
    """What tells that a source is still the one that was read: bytes and time of change."""

    nbytes: int
    modified: str


def open_source(url: str) -> BinaryIO:
    """Open a local path or any URL that fsspec knows, for reading, seekable.

    What is compressed by gzip is read as what it was before.

    Raises
    ------
    InputError
        When it cannot be opened; reading a remote source raises it too, when trying again is of no
        use.
    """
    try:
        file = RemoteFile(url).buffered() if is_remote(url) else open(url, "rb")  # noqa: SIM115
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
    except OSError as error:
        raise InputError(f"cannot open {url}: {error}") from error
    return cast("BinaryIO", _Gunzipped(file) if compressed else file)


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


def identify(url: str) -> SourceIdentity:
    """Size and time of change of a source."""
    if is_remote(url):
        return SourceIdentity(*identify_remote(url))
    try:
        stat = Path(url).stat()
    except OSError as error:
        raise InputError(f"cannot find {url}: {error}") from error
    return SourceIdentity(stat.st_size, str(stat.st_mtime_ns))


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
        temporary.unlink(missing_ok=True)  # a link that was planted there is not followed
        _unfinished.add(temporary)
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
        _unfinished.discard(temporary)


def abandon() -> None:
    """Remove the temporary files of this process, which is about to end in the midst of things."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run left: temporary files below `folder`."""
    if not folder.is_dir():
        return
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is made where it is not there, against other runs.

    The system lets go of it when the process ends, however it ends.

    Raises
    ------
    OutputError
        When another run holds it, it cannot be made, or a folder in it is a symbolic link: what is
        written below would land elsewhere.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"another run is writing to {folder}: wait for it, or choose another --output"
            ) from None
        for path in (p for pattern in ("*", "*/*") for p in folder.glob(pattern)):
            if path.is_symlink() and path.is_dir():
                raise OutputError(
                    f"{path} is a symbolic link: remove it, clipdre does not follow it"
                )
        yield
    finally:
        os.close(handle)
        if made:  # where nothing came of it, it goes again
            with suppress(OSError):
                folder.rmdir()
