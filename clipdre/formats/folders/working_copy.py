"""Score folders in object stores: each is worked on through a copy on a local disk.

The store is the record, and the copy follows it. Files are fetched when they are first needed, and
put into the store once they are complete, the marks of completion last. An index beside the copy
says which object each file equals. So any machine continues what another one began, and a copy
that the store has overtaken is noticed. There are no locks in stores, and none are needed: stamps
decide what is done, and a run stops if another one replaced its manifest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clipdre.errors import NAMES, OutputError, ScoresError
from clipdre.formats.files.remote import is_remote, redacted
from clipdre.formats.files.storage import (
    NO_LOCKS,
    committed,
    real,
)
from clipdre.formats.folders.layout import (
    MANIFEST,
    PLANS,
    is_below,
    is_light,
    is_mark,
    is_ours,
    is_plan,
    leftovers,
)
from clipdre.formats.folders.objects import RESUME, Objects, Stored
from clipdre.formats.folders.store import NoStore, Store
from clipdre.progress import Progress

COPY, INDEX = "copy", "index.json"
# An empty file in the copy that stands for whatever else a store without a manifest holds.
OTHERS = "files-of-others"
# Files that travel at the same time.
THREADS = 16
# Size, time of change and inode of a local file: a renamed or linked one is still the same.
Identity = tuple[int, int, int]
# Working copies of this process by path, those that have been refreshed, and where new ones go.
_opened: dict[Path, WorkingCopy] = {}
_fresh: set[Path] = set()
_scratch: list[Path] = []


class Known(msgspec.Struct, frozen=True):
    """Which object of the store a local file equals; no file if the object was only claimed."""

    stamp: str
    file: Identity | None


Index = dict[str, Known]


def use_scratch(folder: Path | None) -> None:
    """Keep working copies that are opened from now on in this folder; None: in the user's cache."""
    _scratch[:] = [] if folder is None else [folder]


def local_copy(place: str | Path, scratch: str | Path | None = None) -> Path:
    """Return the local path of a score folder: of its working copy if it is in a store.

    Nothing is read yet: the first look at the folder fetches what readers need.

    Parameters
    ----------
    scratch : path or None
        Folder of working copies; None for that of `use_scratch`, or else the user's cache.
    """
    if not is_remote(str(place)):
        return Path(place)
    url = str(place).rstrip("/")
    stem = re.sub("[^A-Za-z0-9._-]", "_", redacted(url).rpartition("/")[2])[-48:]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    base = Path(scratch) if scratch is not None else next(iter(_scratch), None) or _cache()
    copy = WorkingCopy(url, real(base) / f"{stem}-{digest}" / COPY)
    _opened[copy.path] = copy
    _fresh.discard(copy.path)
    NAMES[str(copy.path)] = copy.name
    return copy.path


def _cache() -> Path:
    own = os.environ.get("XDG_CACHE_HOME")
    return (Path(own) if own else Path.home() / ".cache") / "clipdre" / "scores"


def store_of(path: Path) -> Store:
    """Return the store that a score folder, or one inside it, is a working copy of, if any."""
    copy = _opened.get(path) or _opened.get(path.parent)
    return copy or NoStore(str(path))


def refresh(path: Path) -> None:
    """Bring a working copy up to date when it is looked at for the first time."""
    copy = _opened.get(path) or _opened.get(path.parent)
    if copy is not None and copy.path not in _fresh:
        copy.refresh()
        _fresh.add(copy.path)


@dataclass(frozen=True)
class WorkingCopy:
    """A score folder in a store, and its copy on a local disk; see `Store`.

    Attributes
    ----------
    url : str
        Of the score folder; as `name` in messages, without secrets.
    path : Path
        Of the copy.
    """

    url: str
    path: Path

    @property
    def name(self) -> str:
        """The URL without user names, passwords and query strings."""
        return self._objects.name

    def refresh(self) -> None:
        """Fetch what every reader needs, and drop what the store has replaced or removed.

        That is the record of the run, its scores and failures, and measured columns. Files that
        never reached the store are kept, unless another run has taken its place meanwhile.
        """
        with self._index() as index:
            self.path.mkdir(exist_ok=True)
            for name in [name for name in index if not (self.path / name).exists()]:
                del index[name]
            listed, others = self._objects.listed()
            self._drop(index, listed, everything=not _same_run(index, listed))
            foreign = others and MANIFEST not in listed
            (self.path / OTHERS).touch() if foreign else (self.path / OTHERS).unlink(True)
            if not foreign:
                self._get([name for name in listed if is_light(name)], listed, index)

    def fetch(self, *paths: Path) -> None:
        """See `Store`."""
        asked = {self._name(path) for path in paths}
        with self._index() as index:
            listed, _ = self._objects.listed()
            if not _same_run(index, listed):
                raise ScoresError(
                    f"another run has replaced the scores in {self.name} meanwhile",
                    "run the same command again",
                )
            left = leftovers(listed)
            wanted = [name for name in listed if is_below(name, asked) and name not in left]
            self._get(wanted, listed, index)

    def push(self) -> None:
        """See `Store`."""
        with self._index() as index:
            self._push(index)

    def publish(self, path: Path) -> None:
        """See `Store`."""
        name = self._name(path)
        with self._index() as index:
            if not self._objects.put_first(name, path):
                listed, _ = self._objects.listed()
                path.unlink(missing_ok=True)
                self._get([name], listed, index)
            else:
                index[name] = Known(self._objects.stamp(name) or "", _identity(path))

    def claim(self, path: Path) -> None:
        """See `Store`."""
        asked = {self._name(path)}
        with self._index() as index:
            for name, stored in self._objects.listed()[0].items():
                if is_below(name, asked) and name not in index:
                    index[name] = Known(stored.stamp, None)

    def settle(self) -> None:
        """See `Store`."""
        with self._index() as index:
            self._push(index)
            local = self._local()
            listed, _ = self._objects.listed()
            gone = [name for name in index if name not in local]
            # What somebody else has put there since is not ours to remove.
            ours = {n for n in gone if _stamp(listed, n) == _stamp(index, n)} | leftovers(listed)
            plans = [name for name in ours if is_plan(name)]
            for names in (plans, [name for name in ours if not is_plan(name)]):
                self._each(names, self._objects.remove)
            for name in gone:
                del index[name]

    def check_writable(self) -> None:
        """See `Store`."""
        self._objects.check_writable()

    def sizes(self) -> dict[str, int] | None:
        """See `Store`."""
        return {name: stored.nbytes for name, stored in self._objects.listed()[0].items()}

    def holds(self, url: str) -> bool:
        """See `Store`."""
        inside = f"{self.url}/"
        return url.startswith(inside) and is_ours(url.removeprefix(inside))

    @property
    def shared(self) -> Path | None:
        """See `Store`."""
        return self.path.parent

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    @property
    def _objects(self) -> Objects:
        return Objects(self.url)

    @contextmanager
    def _index(self) -> Iterator[Index]:
        """Yield the index while no other process of this machine uses it, then write it."""
        holder = self.path.parent
        try:
            holder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(holder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise OutputError(
                f"cannot keep a working copy of {self.name} in {holder.parent}: {error.strerror}",
                "choose another `scratch`",
            ) from error
        try:
            _wait_for(handle)
            index = _read_index(holder / INDEX)
            before = dict(index)
            try:
                yield index
            finally:
                if index != before:
                    with committed(holder / INDEX) as temporary:
                        temporary.write_bytes(msgspec.json.encode(index))
        finally:
            os.close(handle)

    def _local(self) -> dict[str, Identity]:
        """Return the files of the copy that are complete, by name."""
        found = {}
        for place, _, names in os.walk(self.path):
            for path in (Path(place, name) for name in names):
                if is_ours(name := self._name(path)):
                    with suppress(FileNotFoundError):
                        found[name] = _identity(path)
        return found

    def _drop(self, index: Index, listed: dict[str, Stored], *, everything: bool) -> None:
        """Remove files of the copy that the store has replaced or removed.

        With `everything`, also those that it never had.
        """
        for name in self._local():
            known, there = index.get(name), listed.get(name)
            if there is None:
                stale = known is not None or everything
            else:
                stale = known is None or known.stamp != there.stamp
            if stale:
                (self.path / name).unlink(missing_ok=True)
                index.pop(name, None)

    def _get(self, names: Iterable[str], listed: dict[str, Stored], index: Index) -> None:
        """Fetch files that the copy lacks, and make sure that they are all of one run."""
        missing = [name for name in names if not (self.path / name).exists()]
        if not missing:
            return
        with Progress("fetch", sum(listed[name].nbytes for name in missing)) as progress:

            def get(name: str) -> None:
                with committed(self.path / name, durable=False) as temporary:
                    self._objects.get(name, temporary, listed[name].nbytes)
                index[name] = Known(listed[name].stamp, _identity(self.path / name))
                progress.advance(listed[name].nbytes)

            self._each(missing, get)
        if any(self._objects.stamp(plan) != _stamp(listed, plan) for plan in PLANS):
            raise ScoresError(
                f"a run is replacing the scores in {self.name} right now", "wait for it"
            )

    def _push(self, index: Index) -> None:
        # What a mark stands for is there once the mark is, so it is looked for afterwards.
        marked, local = self._local(), self._local()
        new = {
            name
            for name, file in local.items()
            if (name not in index or index[name].file != file)
            and not (is_mark(name) and marked.get(name) != file)
        }
        if not new:
            return
        if any(self._objects.stamp(plan) != _stamp(index, plan) for plan in PLANS):
            raise OutputError(
                f"another run has replaced the scores in {self.name} meanwhile", RESUME
            )
        here = {(known.file): name for name, known in index.items() if known.file is not None}

        def put(name: str) -> None:
            same, path = here.get(local[name]), self.path / name
            try:
                self._objects.put(name, path, same if same != name else None)
            except OutputError:
                if path.exists():  # or else it was removed meanwhile
                    raise
                return
            index[name] = Known(self._objects.stamp(name) or "", local[name])

        finished = [name for name in new if is_plan(name) and _is_complete(self.path / name)]
        begun = [name for name in new if is_plan(name) and name not in finished]
        marks = [name for name in new if is_mark(name) and not is_plan(name)]
        data = new.difference(finished, begun, marks)
        if MANIFEST in finished and MANIFEST in index and data:
            self._put_unfinished(index)  # nobody may read the old scores and the new ones together
        for names in (begun, data, marks, *([name] for name in sorted(finished))):
            self._each(names, put)  # that of the folder itself comes last

    def _put_unfinished(self, index: Index) -> None:
        raw = json.loads((self.path / MANIFEST).read_bytes())
        self._objects.write(MANIFEST, json.dumps({**raw, "complete": False}).encode())
        index[MANIFEST] = Known(self._objects.stamp(MANIFEST) or "", None)

    def _each(self, names: Collection[str], work: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            for _ in threads.map(work, names):
                pass


def _wait_for(handle: int) -> None:
    """Lock a folder, however long others hold it; go on where file systems have no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS | {errno.EINVAL}:
            raise OutputError(
                f"cannot lock: {error.strerror}", "choose another `scratch`"
            ) from error


def _read_index(path: Path) -> Index:
    """Read an index; a missing or damaged one knows nothing: everything is fetched again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Index)
    except (OSError, msgspec.DecodeError):
        return {}


def _identity(path: Path) -> Identity:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _stamp(found: dict[str, Stored] | Index, name: str) -> str | None:
    return found[name].stamp if name in found else None


def _same_run(index: Index, listed: dict[str, Stored]) -> bool:
    return all(_stamp(index, plan) == _stamp(listed, plan) for plan in PLANS)


def _is_complete(manifest: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads(manifest.read_bytes()).get("complete") is True
    return False
