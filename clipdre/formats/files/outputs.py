"""Output folders of subsets: on a local disk, or in an object store that fsspec supports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.parquet import read_stamp
from clipdre.formats.files.remote import redacted, with_retries
from clipdre.formats.files.storage import (
    committed,
    exclusive,
    is_unfinished,
    local_path,
    real,
    real_paths,
    remove_unfinished,
    remove_unfinished_of,
    shared,
)

T = TypeVar("T")


class OutputFolder(Protocol):
    """A flat folder whose files appear atomically."""

    name: str

    def held(self, *, together: bool = False) -> AbstractContextManager[None]:
        """Lock the folder against other runs inside the block, if the place supports locks.

        Runs that hold it `together` do not exclude each other.
        """
        ...

    def names(self) -> list[str]:
        """Return the sorted names of all files but unfinished ones."""
        ...

    def remove_leftovers(self, name: str | None = None) -> None:
        """Remove the unfinished files of killed runs: all of them, or those of one file."""
        ...

    def committed(self, name: str, *, durable: bool = True) -> AbstractContextManager[Path]:
        """Yield a local path to write; on success its content appears as `name`."""
        ...

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if it is missing."""
        ...

    def stamp(self, name: str) -> dict[str, str]:
        """Return the stamp of a Parquet file, empty if it is missing or damaged."""
        ...

    def table(self, name: str, columns: list[str]) -> pa.Table:
        """Read columns of a Parquet file."""
        ...

    def text(self, name: str) -> str:
        """Return the content of a UTF-8 file, empty if it is missing."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        ...

    def among(self, urls: Iterable[str]) -> dict[str, str]:
        """Return the files directly in this folder that paths or URLs lead to: name to URL."""
        ...

    def subfolder(self, name: str) -> OutputFolder:
        """Return a subfolder, which need not exist. The lock of this folder covers it."""
        ...

    def take(self, subfolder: str, name: str) -> None:
        """Move a file of a subfolder here, replacing a file of the same name."""
        ...

    def rmdir(self) -> None:
        """Remove the folder if it is empty."""
        ...


def output_folder(place: str | Path) -> OutputFolder:
    """Return the folder at a local path or URL, which need not exist.

    Raises
    ------
    OutputError
        If the path is a file, or no installed file system handles the URL.
    """
    path = local_path(str(place))
    return _RemoteFolder(str(place)) if path is None else _LocalFolder(path)


def parent_folder(place: str) -> tuple[OutputFolder, str]:
    """Return the folder of a file at a local path or URL, and the file's name there."""
    path = local_path(place)
    if path is not None:
        return output_folder(path.parent), path.name
    parent, _, name = place.rpartition("/")
    return output_folder(parent), name


def read_json(folder: OutputFolder, name: str) -> dict[str, Any]:
    """Read a JSON object, empty if the file is missing or holds something else."""
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


class _LocalFolder:
    """A folder on a disk: files are written under temporary names, then renamed."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file", "choose another `output`")
        self.path, self.name = path, str(path)

    def held(self, *, together: bool = False) -> AbstractContextManager[None]:
        return shared(self.path) if together else exclusive(self.path)

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        names = (path.name for path in self.path.iterdir())
        return sorted(name for name in names if not is_unfinished(name))

    def remove_leftovers(self, name: str | None = None) -> None:
        if name is None:
            remove_unfinished(self.path)
        else:
            remove_unfinished_of(self.path / name)

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

    def among(self, urls: Iterable[str]) -> dict[str, str]:
        here = real(self.path)
        return {path.name: url for url, path in real_paths(urls) if path.parent == here}

    def subfolder(self, name: str) -> OutputFolder:
        return _LocalFolder(self.path / name)

    def take(self, subfolder: str, name: str) -> None:
        (self.path / subfolder / name).replace(self.path / name)

    def rmdir(self) -> None:
        with suppress(OSError):
            self.path.rmdir()


class _RemoteFolder:
    """A prefix in a store: files are written to a local temporary folder, then uploaded.

    Stores show an object once its upload is complete. They have no locks, so runs that write to the
    same prefix do not exclude each other.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.name = redacted(self._url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self._url)
        except (ValueError, ImportError) as error:
            raise OutputError(
                f"cannot write to {self.name}: {redacted(str(error))}", "choose another `output`"
            ) from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def held(self, *, together: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def names(self) -> list[str]:
        def listed() -> list[str]:
            self._files.invalidate_cache()
            with suppress(FileNotFoundError):
                found = self._files.ls(self._root, detail=False)
                return sorted(str(path).rpartition("/")[2] for path in found)
            return []

        return with_retries(listed, f"cannot list {self.name}")

    def remove_leftovers(self, name: str | None = None) -> None:
        """Do nothing: an upload leaves no file under another name."""

    @contextmanager
    def committed(self, name: str, *, durable: bool = True) -> Iterator[Path]:  # noqa: ARG002
        with tempfile.TemporaryDirectory(prefix="clipdre-") as folder:
            path = Path(folder) / name
            yield path
            self._change(
                lambda: self._files.put_file(str(path), self._at(name)),
                f"cannot write {self.name}/{name}",
            )

    def _change(self, work: Callable[[], object], problem: str) -> None:
        try:
            with_retries(work, problem)
        except InputError as error:
            raise OutputError(error.problem, "run the same command again to resume") from error

    def _look(self, name: str, look: Callable[[str], T]) -> T | None:
        """Return what `look` reads from a file, None if the file is missing."""

        def found() -> T | None:
            try:
                return look(self._at(name))
            except FileNotFoundError:
                return None

        return with_retries(found, f"cannot read {self.name}/{name}")

    def size(self, name: str) -> int | None:
        return self._look(name, lambda path: int(self._files.info(path)["size"]))

    def stamp(self, name: str) -> dict[str, str]:
        def look(path: str) -> dict[str, str]:
            with self._files.open(path, "rb") as file:
                return read_stamp(file)

        return self._look(name, look) or {}

    def table(self, name: str, columns: list[str]) -> pa.Table:
        with self._files.open(self._at(name), "rb") as file:
            return pq.read_table(file, columns=columns)

    def text(self, name: str) -> str:
        data = self._look(name, lambda path: bytes(self._files.cat_file(path)))
        return (data or b"").decode("utf-8")

    def remove(self, name: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                self._files.rm_file(self._at(name))

        self._change(remove, f"cannot remove {self.name}/{name}")

    def among(self, urls: Iterable[str]) -> dict[str, str]:
        own = self._files.protocol
        protocols = (own,) if isinstance(own, str) else own
        found = {}
        for url in urls:
            if url.rpartition("::")[2].partition("://")[0] in protocols:
                parent, _, name = str(self._files._strip_protocol(url)).rpartition("/")
                if parent == self._root:
                    found[name] = url
        return found

    def subfolder(self, name: str) -> OutputFolder:
        return _RemoteFolder(f"{self._url}/{name}")

    def take(self, subfolder: str, name: str) -> None:
        def move() -> None:
            with suppress(FileNotFoundError):  # moved by an attempt whose answer was lost
                self._files.mv(self._at(f"{subfolder}/{name}"), self._at(name))

        self._change(move, f"cannot write {self.name}/{name}")

    def rmdir(self) -> None:
        # Most stores have no folders, and those that have refuse one that holds files.
        with suppress(OSError, NotImplementedError):
            self._files.rmdir(self._root)
