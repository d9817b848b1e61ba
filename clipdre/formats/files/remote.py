"""Remote sources: read by byte ranges through fsspec, with retries."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import fsspec

from clipdre.errors import InputError
from clipdre.formats.files.web import WEB, public_client

# Seconds before each retry.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
BUFFER = 4 * 1024 * 1024
# Errors that a retry does not fix.
PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    ImportError,
    NotImplementedError,
    ValueError,
)
CHECK_URL = "check the URL and your access to it"
RUN_AGAIN = "check the connection and run the same command again"
LOCAL = "file://"
SECRETS = re.compile(r"(?<=://)[^/@\s]*@|\?[^\s'\")]*")
T = TypeVar("T")


def is_remote(url: str) -> bool:
    """Return whether `url` is opened by fsspec, not by the local file system."""
    return "://" in url and not url.startswith(LOCAL)


def redacted(text: str) -> str:
    """Return `text` without the user names, passwords and query strings of its URLs."""
    return SECRETS.sub("", text)


def identify_remote(url: str, public: bool = False) -> tuple[int, str]:
    """Return the size of a source, and its entity tag or else its time of change.

    Raises
    ------
    InputError
        If the source does not exist or its server does not report a size, or if it is `public` and
        on a host of this machine or of a private network.
    """
    info = with_retries(lambda: _info(url, public), f"cannot find {redacted(url)}")
    if info.get("size") is None:
        raise InputError(
            f"the server of {redacted(url)} reports no size", "download the file first"
        )
    return int(info["size"]), str(stamp_of(info))


def stamp_of(info: Mapping[str, Any]) -> Any:
    """Return the entity tag of a source that fsspec describes, or else its time of change."""
    stamps = (info.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created"))
    return next((stamp for stamp in stamps if stamp), "")


def _opened(url: str, public: bool) -> tuple[Any, str]:
    """Return the file system of a URL, and its path there."""
    guarded = public and url.partition("://")[0].lower() in WEB
    options = {"get_client": public_client} if guarded else {}
    found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    return found


def _info(url: str, public: bool) -> dict[str, Any]:
    filesystem, path = _opened(url, public)
    found: dict[str, Any] = filesystem.info(path)
    return found


def read_ranges(url: str, spans: Sequence[tuple[int, int]], public: bool = False) -> list[bytes]:
    """Return the bytes of (offset, nbytes) spans of a remote source, requested concurrently.

    Raises
    ------
    InputError
        If a span cannot be read, even after retries, or as for `identify_remote`.
    """
    left = {n: span for n, span in enumerate(spans) if span[1]}
    found = {n: b"" for n, span in enumerate(spans) if not span[1]}

    def ask() -> None:
        filesystem, path = _opened(url, public)
        starts = [offset for offset, _ in left.values()]
        ends = [offset + nbytes for offset, nbytes in left.values()]
        answers = filesystem.cat_ranges([path] * len(left), starts, ends, on_error="return")
        failed = None
        for (n, (offset, nbytes)), data in zip(list(left.items()), answers, strict=True):
            if isinstance(data, Exception):
                failed = data
            elif len(data) < nbytes:
                failed = EOFError(f"it ends before byte {offset + nbytes}")
            else:
                # A server that does not support ranges sends the whole file.
                found[n] = bytes(data if len(data) == nbytes else data[offset : offset + nbytes])
                del left[n]
        if failed is not None:
            raise failed

    with_retries(ask, f"cannot read {redacted(url)}")
    return [found[n] for n in range(len(spans))]


def with_retries(work: Callable[[], T], problem: str) -> T:
    """Return the result of `work`, retrying after a pause if it fails.

    Raises
    ------
    InputError
        With `problem` and the reason, if a retry is pointless or the last one fails.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:
            refused = error if isinstance(error, InputError) else error.__cause__
            if isinstance(refused, InputError):  # by `public_client`
                raise InputError(f"{problem}: {refused.problem}", refused.cure) from error
            if _is_permanent(error):
                raise InputError(f"{problem}: {redacted(str(error))}", CHECK_URL) from error
            if wait is None:
                reason = f"{type(error).__name__}: {redacted(str(error))}"
                attempts = f"after {len(WAITS) + 1} attempts"
                raise InputError(f"{problem}, {attempts}: {reason}", RUN_AGAIN) from error
            time.sleep(wait)
    raise AssertionError  # the last attempt returns or raises


def _is_permanent(error: BaseException) -> bool:
    """Return whether a retry would fail as well."""
    # fsspec reports any failure of a web server as a missing file; the cause has the status.
    answer = error if error.__cause__ is None else error.__cause__
    status = getattr(answer, "status", None) or _status_of_store(answer)
    if status is not None:
        return 400 <= int(status) < 500 and status not in (408, 409, 429)
    return isinstance(answer, PERMANENT)


def _status_of_store(answer: BaseException) -> int | None:
    """Return the status in an error of botocore, None if it is another one or has no status."""
    response = getattr(answer, "response", None)
    found = response.get("ResponseMetadata") if isinstance(response, dict) else None
    return found.get("HTTPStatusCode") if isinstance(found, dict) else None


class RemoteFile(io.RawIOBase):
    """A remote source as a seekable file that survives broken connections."""

    def __init__(self, url: str, public: bool = False) -> None:
        self.name = redacted(url)
        self._url = url
        self._public = public
        self._size, _ = identify_remote(url, public)
        self._at = 0

    def buffered(self) -> io.BufferedReader:
        """Return the file with a buffer large enough to make range requests efficient."""
        return io.BufferedReader(self, BUFFER)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next read, without a request."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, or as much of it as the source has left."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._at))
        (data,) = read_ranges(self._url, [(self._at, wanted)], self._public)
        view[:wanted] = data
        self._at += wanted
        return wanted
