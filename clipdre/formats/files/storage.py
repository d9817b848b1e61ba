"""Open sources, commit outputs, lock folders: a file under its final name is always whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, cast

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.gunzip import Gunzipped
from clipdre.formats.files.links import put_first
from clipdre.formats.files.remote import LOCAL, RemoteFile, identify_remote, is_remote, redacted
from clipdre.words import count, one_line

GZIP_MAGIC = b"\x1f\x8b"
ESCAPED = re.compile(r"\\udc([89a-f][0-9a-f])")
CHECK_PATH = "check the path and its permissions"
TEMPORARY_PREFIX = ".unfinished-"
TEMPORARY = re.compile(
    re.escape(TEMPORARY_PREFIX)
    + r"(?P<host>[A-Za-z0-9.]+)-(?P<pid>[1-9][0-9]{0,8})-[0-9a-f]{8}-(?P<name>.+)",
    re.DOTALL,
)
# Subfolder in which the replacement of an existing output is written until it is complete.
REPLACEMENT = ".replacement"
# Longer names are cut from the left, because file systems limit a name to 255 bytes.
KEPT_NAME = 48
# Errors of file systems without locks, such as some mounts of Lustre and NFS.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
# Temporary files that this process is writing, and folders that it has to itself.
_unfinished: set[Path] = set()
_exclusive: set[Path] = set()


def _host() -> str:
    """Return a short label of the machine, or of the container if it numbers its own processes."""
    name, processes = socket.gethostname(), ""
    with suppress(OSError):  # Linux only
        processes = str(Path("/proc/self/ns/pid").readlink())
    digest = hashlib.sha256(f"{name} {processes}".encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9.]', '', name)[:16]}.{digest[:8]}"


HOST = _host()


@dataclass(frozen=True)
class SourceIdentity:
    """Size and time of change of a source, to detect that it was replaced."""

    nbytes: int
    modified: str

    def difference(self, nbytes: int) -> str:
        """Return how the source differs from an earlier one of `nbytes` that it is not."""
        if self.nbytes == nbytes:
            return "same size, another time of change"
        return f"{count(nbytes, 'byte')} then, {self.nbytes:,} now"


def open_source(url: str, public: bool = False) -> BinaryIO:
    """Open a local path, or any URL that fsspec supports, as a seekable file.

    Gzip is decompressed on the fly.

    Raises
    ------
    InputError
        If the source cannot be opened, or later if reading a remote source keeps failing; if it is
        `public`, also as for `identify_remote`.
    """
    try:
        file = (
            RemoteFile(url, public).buffered()
            if is_remote(url)
            else open(regular(unescaped_path(url)), "rb")  # noqa: SIM115
        )
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
    except OSError as error:
        place = redacted(url) if is_remote(url) else url
        raise InputError(f"cannot open {place}: {one_line(error)}", CHECK_PATH) from error
    return cast("BinaryIO", Gunzipped(file) if compressed else file)


def is_compressed(file: BinaryIO) -> bool:
    """Return whether a file from `open_source` is decompressed as it is read."""
    return isinstance(file, Gunzipped)


def unescaped_path(url: str) -> Path:
    r"""Return the path that a URL without a scheme, or with ``file://``, stands for.

    Manifests and tables are UTF-8. In a path that is not, ``\udcXX`` stands for the byte XX; see
    `clipdre.formats.tars.samples.printable`. A file of that very name comes first.
    """
    path = Path(url.removeprefix(LOCAL))
    if not ESCAPED.search(url) or path.exists():
        return path
    return Path(ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), str(path)))


def local_path(place: str) -> Path | None:
    """Return the path of a place on a local disk, ``file://`` included; None for other URLs."""
    return None if is_remote(place) else unescaped_path(place)


def absolute(url: str) -> str:
    """Return a local path so that it holds in any working directory; other URLs as they are."""
    if is_remote(url):
        return url
    path = Path.cwd() / url.removeprefix(LOCAL)
    return str(real(path.parent) / path.name if ".." in path.parts else path)


def regular(path: Path) -> Path:
    """Return the path of a regular file: opening a pipe or a device may take forever.

    Raises
    ------
    OSError
        If it is something else, or missing.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL byte
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from error
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def is_utf8(path: str | Path) -> bool:
    """Whether Arrow and DuckDB can open a path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def real(path: Path) -> Path:
    """Return a path with its links resolved; `Path.resolve` raises if they run in a circle."""
    return Path(os.path.realpath(path))


def real_paths(urls: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Yield local URLs, each with where it lies and, if it is a link, also with where it leads."""
    folders: dict[Path, Path] = {}
    for url in urls:
        path = local_path(url)
        if path is None:
            continue
        if path.parent not in folders:  # shards share their folder
            folders[path.parent] = real(path.parent)
        path = folders[path.parent] / path.name
        yield url, path
        if path.is_symlink():
            yield url, real(path)


def identify(url: str, public: bool = False) -> SourceIdentity:
    """Return the size and time of change of a source.

    Raises
    ------
    InputError
        If the source does not exist or cannot be accessed.
    """
    if is_remote(url):
        return SourceIdentity(*identify_remote(url, public))
    try:
        found = regular(unescaped_path(url)).stat()
    except OSError as error:
        raise InputError(f"cannot find {url}: {one_line(error)}", CHECK_PATH) from error
    return SourceIdentity(found.st_size, str(found.st_mtime_ns))


@contextmanager
def committed(path: Path, *, durable: bool = True, first: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success rename it to `path`, else remove it.

    The name of the temporary file identifies its writer, see `remove_unfinished`. A `durable` file
    also survives a power failure, at the price of waiting for the disk. With `first`, a file that
    another writer put there meanwhile stays.

    Raises
    ------
    OutputError
        If the file cannot be written, for example because the disk is full.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is a device or a pipe, which a file must not replace")
        _unfinished.add(temporary)
        yield temporary
        if durable:
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        put = put_first if first else Path.replace
        put(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "fix this and run the same command again; files written so far are intact",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def _temporary(path: Path) -> Path:
    # The random part keeps threads apart, and nobody can plant a link under the name beforehand.
    writer = f"{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{TEMPORARY_PREFIX}{writer}-{path.name[-KEPT_NAME:]}")


def abandon() -> None:
    """Remove the temporary files of this process, which is about to exit."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Return whether `name` is that of a temporary file from `committed`."""
    return TEMPORARY.fullmatch(name) is not None


def remove_unfinished(folder: Path, *subfolders: str) -> None:
    """Remove the temporary files that killed writers left directly in these folders.

    Removes files of dead processes on this machine; inside the `exclusive` lock on `folder`, also
    those of other machines and of running processes, since the lock shows that their writers are
    gone. Directories, links and files under other names are left alone, and nothing below the
    given folders is touched.

    Parameters
    ----------
    folder : Path
    *subfolders : str
        Paths or glob patterns relative to `folder`. Symbolic links are not followed.
    """
    places = [folder, *(path for pattern in subfolders for path in folder.glob(pattern))]
    here = real(folder)
    everyone = not _exclusive.isdisjoint([here, *here.parents])
    for place in places:
        if place.is_dir() and real(place) == here / place.relative_to(folder):
            _remove_leftovers(place, everyone=everyone)


def remove_unfinished_of(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left on this machine."""
    with suppress(OSError):  # the folder is missing, or cannot be read
        _remove_leftovers(path.parent, of=path.name[-KEPT_NAME:])


def _remove_leftovers(folder: Path, *, everyone: bool = False, of: str | None = None) -> None:
    writing = {path.name for path in list(_unfinished)}
    for path in folder.iterdir():
        named = TEMPORARY.fullmatch(path.name)
        if named is None or path.name in writing or of not in (None, named["name"]):
            continue
        if (everyone or _is_dead(named)) and path.is_file() and not path.is_symlink():
            with suppress(OSError):  # another run may remove it too
                path.unlink()


def _is_dead(named: re.Match[str]) -> bool:
    """Return whether the process that wrote a temporary file ran on this machine, and is gone."""
    return named["host"] == HOST and not _is_running(int(named["pid"]))


def _is_running(pid: int) -> bool:
    """Return whether another process has this id."""
    if pid == os.getpid():  # an earlier process had the same id, as happens in containers
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def exclusive(folder: Path) -> AbstractContextManager[None]:
    """Lock `folder` for one run, creating it if needed.

    The system releases the lock when the process ends, however it ends. On network file systems it
    may exclude only runs on the same machine; where there are no locks, it gives a warning.

    Raises
    ------
    OutputError
        If another run holds the folder, it cannot be created, its path is not UTF-8, or one of its
        subfolders is a symbolic link, through which files would be written elsewhere.
    """
    return _locked(folder, fcntl.LOCK_EX)


def shared(folder: Path) -> AbstractContextManager[None]:
    """Lock `folder` for one of several cooperating runs, creating it if needed.

    Shared locks exclude `exclusive` ones and vice versa; otherwise as `exclusive`.
    """
    return _locked(folder, fcntl.LOCK_SH)


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    created = not folder.exists()
    handle, locked = _lock(folder, kind)
    alone = {folder.resolve()} if locked and kind == fcntl.LOCK_EX else set()
    try:
        _refuse_links(folder)
        _exclusive.update(alone)
        yield
    finally:
        _exclusive.difference_update(alone)
        if created:
            with suppress(OSError):  # the folder is not empty, or other runs share it
                if locked:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder.rmdir()
        os.close(handle)


def _lock(folder: Path, kind: int) -> tuple[int, bool]:
    """Return a handle of `folder`, and whether it is locked: not all file systems have locks."""
    if not is_utf8(folder):
        raise OutputError(f"the path of {folder} is not UTF-8", "choose another `output`")
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise OutputError(
                f"cannot write to {folder}: {error.strerror}", "choose another `output`"
            ) from error
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if _is_same(handle, folder):
                return handle, True
        except OSError as error:
            if error.errno in NO_LOCKS:
                _warn_of_no_locks()
                return handle, False
            os.close(handle)
            if not isinstance(error, BlockingIOError):
                raise OutputError(
                    f"cannot lock {folder}: {error.strerror}", "choose another `output`"
                ) from error
            raise OutputError(
                f"another run is writing to {folder}", "wait for it, or choose another `output`"
            ) from None
        os.close(handle)


@cache  # once in a run, which may lock several folders
def _warn_of_no_locks() -> None:
    warnings.warn(
        "the file system of the output has no locks, so runs on one folder do not exclude each "
        "other: start only one at a time",
        stacklevel=2,
    )


def _is_same(handle: int, folder: Path) -> bool:
    """Return whether the folder was not removed before it could be locked."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _refuse_links(folder: Path) -> None:
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            if path.is_symlink():
                raise OutputError(
                    f"{path} is a symbolic link, which clipdre does not follow",
                    "remove it, or choose another `output`",
                )
