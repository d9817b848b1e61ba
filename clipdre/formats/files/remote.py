"""Sources that are far away: read by ranges through fsspec, again and again where that fails."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import fsspec

from clipdre.errors import InputError

# Seconds before each new attempt.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
BUFFER = 4 * 1024 * 1024
# Not mended by trying again.
PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    ImportError,
    NotImplementedError,
    ValueError,
)
SECRETS = re.compile(r"(?<=://)[^/@\s]*@|\?[^\s'\")]*")
T = TypeVar("T")


def is_remote(url: str) -> bool:
    """Whether `url` names something that fsspec, not the local file system, opens."""
    return "://" in url


def redacted(text: str) -> str:
    """`text` without what URLs in it hold of passwords and signatures."""
    return SECRETS.sub("", text)


def identify_remote(url: str) -> tuple[int, str]:
    """Size and what tells a change: the entity tag, else a time.

    Raises
    ------
    InputError
        When there is no such thing, or it tells no size.
    """
    info = with_retries(lambda: _info(url), f"cannot find {redacted(url)}")
    stamps = (info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created"))
    if info.get("size") is None:
        raise InputError(f"{redacted(url)} tells no size: copy it to a disk first")
    return int(info["size"]), str(next((stamp for stamp in stamps if stamp), ""))


def _info(url: str) -> dict[str, Any]:
    filesystem, path = fsspec.core.url_to_fs(url)
    found: dict[str, Any] = filesystem.info(path)
    return found


def read_ranges(url: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes of (offset, nbytes) spans of a remote source, asked for together."""
    left = {n: span for n, span in enumerate(spans) if span[1]}
    found = {n: b"" for n, span in enumerate(spans) if not span[1]}

    def ask() -> None:
        filesystem, path = fsspec.core.url_to_fs(url)
        starts = [offset for offset, _ in left.values()]
        ends = [offset + nbytes for offset, nbytes in left.values()]
        answers = filesystem.cat_ranges([path] * len(left), starts, ends, on_error="return")
        failed = None
        for (n, (offset, nbytes)), data in zip(list(left.items()), answers, strict=True):
            if isinstance(data, Exception):
                failed = data
            elif len(data) < nbytes:
                failed = InputError(f"{redacted(url)} ends before byte {offset + nbytes}")
            else:
                # A server that knows no ranges sends all of the file.
                found[n] = bytes(data if len(data) == nbytes else data[offset : offset + nbytes])
                del left[n]
        if failed is not None:
            raise failed

    with_retries(ask, f"cannot read {redacted(url)}")
    return [found[n] for n in range(len(spans))]


def with_retries(work: Callable[[], T], said: str) -> T:
    """The result of `work`, tried again after a while where it fails; `InputError` in the end."""
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:  # noqa: PERF203 (libraries raise what they like)
            if _is_permanent(error):
                raise InputError(f"{said}: {redacted(str(error))}") from error
            if wait is None:
                reason = f"{type(error).__name__}: {redacted(str(error))}"
                raise InputError(f"{said}, after {len(WAITS) + 1} attempts: {reason}") from error
            time.sleep(wait)
    raise AssertionError  # the last attempt returns or raises


def _is_permanent(error: BaseException) -> bool:
    """Whether trying again is of no use."""
    # fsspec takes any failure of a web server for a file that is not there, and keeps the cause.
    answer = error if error.__cause__ is None else error.__cause__
    status = getattr(answer, "status", None)
    if status is not None:
        return 400 <= int(status) < 500 and status not in (408, 429)
    return isinstance(answer, PERMANENT)


class RemoteFile(io.RawIOBase):
    """A remote source as a file to read: where a connection breaks, the next goes on there."""

    def __init__(self, url: str) -> None:
        self.name = redacted(url)
        self._url = url
        self._size, _ = identify_remote(url)
        self._at = 0

    def buffered(self) -> io.BufferedReader:
        """The same with a buffer that makes the ranges worth asking for."""
        return io.BufferedReader(self, BUFFER)

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where the next read begins; nothing is asked for."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the source goes."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._at))
        (data,) = read_ranges(self._url, [(self._at, wanted)])
        view[:wanted] = data
        self._at += wanted
        return wanted
