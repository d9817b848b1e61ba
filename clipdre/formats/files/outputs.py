"""Folders that a subset is written to: on a disk, or in a store that fsspec knows."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.parquet import read_stamp
from clipdre.formats.files.remote import is_remote, redacted, with_retries
from clipdre.formats.files.storage import committed, exclusive, remove_unfinished

T = TypeVar("T")


class OutputFolder(Protocol):
    """A flat folder whose files appear whole."""

    name: str

    def held(self) -> AbstractContextManager[None]:
        """Keep other runs away while in the block, where the place can."""
        ...

    def names(self) -> list[str]:
        """What is there, after what a killed run left half-written is removed."""
        ...

    def committed(self, name: str, *, durable: bool = True) -> AbstractContextManager[Path]:
        """Yield a local path to write; on success its content is there as `name`, at once."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def stamp(self, name: str) -> dict[str, str]:
        """What a Parquet file says of itself; empty where there is none."""
        ...

    def table(self, name: str, columns: list[str]) -> pa.Table:
        """Columns of a Parquet file."""
        ...

    def text(self, name: str) -> str:
        """Content of a file; empty where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, where it is."""
        ...


def output_folder(place: str | Path) -> OutputFolder:
    """The folder at a local path or a URL.

    Raises
    ------
    OutputError
        When it is a file, or the URL is of no store that can be written to.
    """
    return _RemoteFolder(str(place)) if is_remote(str(place)) else _LocalFolder(Path(place))


def read_json(folder: OutputFolder, name: str) -> dict[str, Any]:
    """A JSON object of a folder; empty where there is none."""
    try:
        found = json.loads(folder.text(name) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write_json(
    folder: OutputFolder, name: str, value: dict[str, Any], *, durable: bool = True
) -> None:
    """Write a JSON object."""
    with folder.committed(name, durable=durable) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def remove_matching(folder: OutputFolder, *patterns: str) -> None:
    """Remove the files whose names match, pattern by pattern; whatever else is there stays."""
    for pattern in patterns:
        for name in folder.names():
            if fnmatch(name, pattern):
                folder.remove(name)


class _LocalFolder:
    """A folder on a disk: temporary files beside their places, renamed."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file: choose another --output")
        self.path, self.name = path, str(path)

    def held(self) -> AbstractContextManager[None]:
        return exclusive(self.path)

    def names(self) -> list[str]:
        remove_unfinished(self.path)
        return sorted(path.name for path in self.path.iterdir())

    def committed(self, name: str, *, durable: bool = True) -> AbstractContextManager[Path]:
        return committed(self.path / name, durable=durable)

    def size(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_size if path.exists() else None

    def stamp(self, name: str) -> dict[str, str]:
        return read_stamp(self.path / name)

    def table(self, name: str, columns: list[str]) -> pa.Table:
        return pq.read_table(self.path / name, columns=columns)

    def text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except OSError:
            return ""

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class _RemoteFolder:
    """A prefix of a store: files are written to a local temporary folder, then sent as a whole.

    Stores show an object when all of it has arrived. They know no locks: runs on one output do not
    exclude each other.
    """

    def __init__(self, url: str) -> None:
        self.name = redacted(url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"))
        except (ValueError, ImportError) as error:
            raise OutputError(f"cannot write to {self.name}: {redacted(str(error))}") from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def names(self) -> list[str]:
        def listed() -> list[str]:
            self._files.invalidate_cache()
            with suppress(FileNotFoundError):
                found = self._files.ls(self._root, detail=False)
                return sorted(str(path).rpartition("/")[2] for path in found)
            return []

        return with_retries(listed, f"cannot list {self.name}")

    @contextmanager
    def committed(self, name: str, *, durable: bool = True) -> Iterator[Path]:  # noqa: ARG002
        with tempfile.TemporaryDirectory(prefix="clipdre-") as folder:
            path = Path(folder) / name
            yield path
            try:
                with_retries(
                    lambda: self._files.put_file(str(path), self._at(name)),
                    f"cannot write {self.name}/{name}",
                )
            except (InputError, NotImplementedError) as error:
                raise OutputError(f"{error}; give the same command again to go on") from error

    def _there(self, name: str, look: Callable[[str], T]) -> T | None:
        """What `look` sees in a file; None where there is none."""

        def seen() -> T | None:
            try:
                return look(self._at(name))
            except FileNotFoundError:
                return None

        return with_retries(seen, f"cannot read {self.name}/{name}")

    def size(self, name: str) -> int | None:
        return self._there(name, lambda path: int(self._files.info(path)["size"]))

    def stamp(self, name: str) -> dict[str, str]:
        def look(path: str) -> dict[str, str]:
            with self._files.open(path, "rb") as file:
                return read_stamp(file)

        return self._there(name, look) or {}

    def table(self, name: str, columns: list[str]) -> pa.Table:
        with self._files.open(self._at(name), "rb") as file:
            return pq.read_table(file, columns=columns)

    def text(self, name: str) -> str:
        return self._there(name, lambda p: bytes(self._files.cat_file(p)).decode("utf-8")) or ""

    def remove(self, name: str) -> None:
        self._files.rm_file(self._at(name))
