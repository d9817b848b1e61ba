"""The objects of a score folder in a store: listed, read, put and removed, with retries."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import fsspec

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.remote import CHECK_URL, redacted, stamp_of, with_retries
from clipdre.formats.files.storage import HOST, TEMPORARY_PREFIX, is_unfinished
from clipdre.formats.folders.layout import is_ours

RESUME = "run the same command again to resume"
USERINFO = re.compile(r"(?<=://)[^/@]*@")
T = TypeVar("T")


class Stored(NamedTuple):
    """An object of the store: its size, and what changes when it is replaced."""

    nbytes: int
    stamp: str


@dataclass(frozen=True)
class Objects:
    """Objects below a URL, each by its name relative to that.

    Methods raise `InputError` if they cannot read, and `OutputError` if they cannot write.
    """

    url: str

    @property
    def name(self) -> str:
        """The URL without user names, passwords and query strings."""
        return redacted(self.url)

    def listed(self) -> tuple[dict[str, Stored], bool]:
        """Return a score folder's objects by name, and whether there are any objects at all."""

        def ask() -> tuple[str, dict[str, Any]]:
            files, root = self._open()
            files.invalidate_cache()
            return root, files.find(root, detail=True)

        root, found = self._ask(ask, f"cannot list {self.name}")
        names = {
            path[len(root) :].lstrip("/"): info
            for path, info in found.items()
            if not path.endswith("/")  # what some tools put in the place of a folder
        }
        ours = {
            name: Stored(int(info["size"]), _stamp_in(info))
            for name, info in names.items()
            if is_ours(name)
        }
        return ours, not all(is_unfinished(PurePosixPath(name).name) for name in names)

    def stamp(self, name: str) -> str | None:
        """Return the stamp of an object, None if it is missing."""

        def ask() -> str | None:
            files, root = self._open()
            files.invalidate_cache(f"{root}/{name}")
            try:
                return _stamp_in(files.info(f"{root}/{name}"))
            except FileNotFoundError:
                return None

        return self._ask(ask, f"cannot find {self.name}/{name}")

    def get(self, name: str, path: Path, nbytes: int) -> None:
        """Read an object of so many bytes into a file."""

        def get() -> None:
            files, root = self._open()
            files.get_file(f"{root}/{name}", str(path))
            if path.stat().st_size != nbytes:
                raise EOFError("its size has changed")

        self._ask(get, f"cannot read {self.name}/{name}")

    def put(self, name: str, path: Path, same: str | None = None) -> None:
        """Put a file whole, or copy the object `same`, which equals it."""

        def put() -> None:
            files, root = self._open()
            if same is not None:
                with suppress(Exception):  # not all stores can copy
                    files.cp_file(f"{root}/{same}", f"{root}/{name}")
                    return
            files.put_file(str(path), f"{root}/{name}")

        self._change(put, f"cannot write {self.name}/{name}")

    def put_first(self, name: str, path: Path) -> bool:
        """Put a file unless there is one; return whether there was none."""

        def put() -> bool:
            files, root = self._open()
            try:
                files.put_file(str(path), f"{root}/{name}", mode="create")
            except FileExistsError:
                return False
            return True

        if self.stamp(name) is not None:
            return False
        return self._change(put, f"cannot write {self.name}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Put an object of this content."""

        def put() -> None:
            files, root = self._open()
            files.pipe_file(f"{root}/{name}", content)

        self._change(put, f"cannot write {self.name}/{name}")

    def remove(self, name: str) -> None:
        """Remove an object, unless it is gone."""

        def remove() -> None:
            files, root = self._open()
            with suppress(FileNotFoundError):
                files.rm_file(f"{root}/{name}")

        self._change(remove, f"cannot remove {self.name}/{name}")

    def check_writable(self) -> None:
        """Put an object and remove it."""
        probe = f"{TEMPORARY_PREFIX}{HOST}-{os.getpid()}-{secrets.token_hex(4)}-probe"

        def put() -> None:
            files, root = self._open()
            files.pipe_file(f"{root}/{probe}", b"clipdre")
            files.rm_file(f"{root}/{probe}")

        self._change(put, f"cannot write to {self.name}", CHECK_URL)

    def _open(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self.url)
        return files, str(root).rstrip("/")

    def _ask(self, work: Callable[[], T], problem: str) -> T:
        try:
            return with_retries(work, problem)
        except InputError as error:
            secret = USERINFO.search(self.url)
            hidden = error.problem.replace(secret[0], "") if secret else error.problem
            raise InputError(hidden, error.cure) from None

    def _change(self, work: Callable[[], T], problem: str, cure: str = RESUME) -> T:
        try:
            return self._ask(work, problem)
        except InputError as error:
            raise OutputError(error.problem, cure) from None


def _stamp_in(info: Mapping[str, Any]) -> str:
    stamp = stamp_of(info)  # a listing may give the number of seconds where `info` gives a time
    return str(stamp.timestamp() if isinstance(stamp, datetime) else stamp)
