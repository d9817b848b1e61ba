"""Where the files of a score folder are."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow.compute as pc

from clipdre.errors import OutputError, ScoresError
from clipdre.formats.files.parquet import SCORE_AGAIN, Footer, read_footer, read_table
from clipdre.formats.files.storage import REPLACEMENT, TEMPORARY_PREFIX
from clipdre.formats.folders.layout import ABANDONED, MANIFEST, PARTS
from clipdre.formats.folders.manifest import is_own_manifest, read_manifest
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.store import Store
from clipdre.formats.folders.working_copy import local_copy, refresh, store_of
from clipdre.words import count

MOVING = "moving"


@dataclass(frozen=True)
class FailureExample:
    """A failed sample; the key is empty where the archive itself is damaged."""

    shard: str
    key: str
    message: str
    offset: int = 0


@dataclass(frozen=True)
class ScoreFolder:
    """A folder that `clipdre score` writes: manifest, scores, failures, embeddings.

    Attributes
    ----------
    path : Path
        Of the folder, or of its working copy if it is in a store.
    store : Store
        Where files come from and go to; workers on this machine are given it with the folder.
    """

    path: Path
    store: Store = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", store_of(self.path))

    def scores(self, shard: str) -> Path:
        """Return the path of a shard's scores: one row per scored sample, in shard order."""
        return self.path / "scores" / f"{shard}.parquet"

    def checked(self, shard: ShardRecord) -> Footer:
        """Return the footer of a shard's scores; `ScoresError` if its rows are not those stated."""
        path = self.scores(shard.name)
        found = read_footer(path)
        if found.rows != shard.rows:
            stated = f"{count(found.rows, 'row')}, but the manifest counts {shard.rows:,}"
            raise ScoresError(f"{path} has {stated}", SCORE_AGAIN)
        return found

    def checked_scores(self, shard: ShardRecord) -> Path:
        """Return the path of a shard's scores; `ScoresError` if they are not as many as stated."""
        self.checked(shard)
        return self.scores(shard.name)

    def failures(self, shard: str) -> Path:
        """Return the path of a shard's failures: one row per sample without scores."""
        return self.path / "failures" / f"{shard}.parquet"

    @property
    def embeddings(self) -> Path:
        """Embeddings of all shards, in clip-retrieval's layout."""
        return self.path / "embeddings"

    @property
    def reference(self) -> Path:
        """What stands for the pool's marginals."""
        return self.path / "reference"

    @property
    def columns(self) -> Path:
        """Columns that scorers measured, a folder each."""
        return self.path / "columns"

    def failure_counts(self, shard: str) -> dict[str, int]:
        """Count the failed samples of a shard by reason; `ScoresError` if the file is damaged."""
        reasons = read_table(self.failures(shard), ["reason"])["reason"].to_pylist()
        return dict(sorted(Counter(reasons).items()))

    def failure_example(self, shard: str, reason: str) -> FailureExample | None:
        """Return the first sample of a shard that failed for a reason; None if there is none.

        `ScoresError` if the file is damaged.
        """
        table = read_table(self.failures(shard), ["key", "offset", "reason", "message"])
        row = pc.index(table["reason"], reason).as_py()
        if row < 0:
            return None
        key, message = (table[name][row].as_py() or "" for name in ("key", "message"))
        return FailureExample(shard, key, message, table["offset"][row].as_py() or 0)

    def is_foreign(self) -> bool:
        """Whether the path holds something that `clipdre score` did not make."""
        return not self.is_new() and not is_own_manifest(self.path)

    def is_new(self) -> bool:
        """Whether there is nothing at the path yet.

        A run that was killed at its very start leaves nothing but a temporary file.
        """
        refresh(self.path)
        if not self.path.is_dir():
            return not self.path.exists()
        return all(path.name.startswith(TEMPORARY_PREFIX) for path in self.path.iterdir())

    def clear(self) -> None:
        """Remove a run, its manifest last; other files in the folder stay."""
        self.store.claim(self.path)
        for part in PARTS:
            shutil.rmtree(self.path / part, ignore_errors=True)
        (self.path / MANIFEST).unlink(missing_ok=True)

    @property
    def replacement(self) -> ScoreFolder:
        """Scores that are to replace these once they are complete."""
        return ScoreFolder(self.path / REPLACEMENT)

    @property
    def abandoned(self) -> ScoreFolder:
        """What an interrupted run to another plan left of its replacement."""
        return ScoreFolder(self.path / ABANDONED)

    @property
    def is_replacing(self) -> bool:
        """Whether a run was killed while it put a replacement in the place of these scores."""
        new = self.replacement.path
        return (new / MOVING).exists() or _is_complete(new)

    def abandon_replacement(self) -> None:
        """Set an unfinished replacement aside, so that another one can take over its embeddings."""
        new, old = self.replacement, self.abandoned
        if (old.path / MANIFEST).exists():  # what was taken over from it is all that is in `new`
            new.clear()
        elif (new.path / MANIFEST).exists():
            new.path.rename(old.path)

    def remove_abandoned(self) -> None:
        """Remove what `abandon_replacement` set aside."""
        old = self.abandoned
        if not old.is_foreign():
            old.clear()
            shutil.rmtree(old.path, ignore_errors=True)

    def finish_replacement(self) -> None:
        """Put a finished replacement in the place of these scores; do nothing if there is none.

        If this is interrupted, calling it again finishes it. Meanwhile the manifest is that of an
        unfinished run, so nobody reads a mixture. Other files in the folder stay.

        Raises
        ------
        OutputError
            If a file cannot be moved.
        """
        new = self.replacement.path
        if self.is_replacing:
            self._exchange(new)
        with suppress(OSError):  # it is not empty, or not there
            new.rmdir()

    def _exchange(self, new: Path) -> None:
        try:
            if not (new / MOVING).exists():
                with suppress(ScoresError):  # what cannot be read is not taken for finished
                    old = read_manifest(self.path)
                    msgspec.structs.replace(old, complete=False).write(self.path)
                for part in PARTS:
                    if not (new / part).exists():
                        shutil.rmtree(self.path / part, ignore_errors=True)
                (new / MOVING).touch()  # from here on, what is not in `new` was moved already
            for part in PARTS:
                if (new / part).exists():
                    shutil.rmtree(self.path / part, ignore_errors=True)
                    (new / part).rename(self.path / part)
            if (new / MANIFEST).exists():
                read_manifest(new).write(self.path)  # paths of shards may be from there
                (new / MANIFEST).unlink()
            shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            raise OutputError(
                f"cannot replace the scores in {self.path}: {error.strerror}",
                "fix this and run the same command again to resume",
            ) from error


def folder_at(place: str | Path) -> ScoreFolder:
    """Return the score folder at a path or URL."""
    return ScoreFolder(local_copy(place))


def _is_complete(folder: Path) -> bool:
    try:
        return read_manifest(folder).complete
    except ScoresError:
        return False
