"""Where a subset may go: never over its sources or scores, and over nothing but a subset."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from clipdre.errors import OutputError
from clipdre.formats.files.outputs import OutputFolder, output_folder, parent_folder, read_json
from clipdre.formats.files.remote import redacted
from clipdre.formats.files.storage import REPLACEMENT, local_path, real
from clipdre.formats.folders.layout import MANIFEST, PARTS
from clipdre.words import changed

SUMMARY = "summary.json"
UNFINISHED = "unfinished.json"
RENAMED = "renamed.parquet"
SIZES = "sizes.json"
CARD = "README.md"
DIGITS = "[0-9]" * 8
# A summary may be anybody's: only these names are taken from it.
TAR = re.compile(f"{DIGITS}[.]tar")
PATTERNS = (
    SUMMARY,
    UNFINISHED,
    RENAMED,
    SIZES,
    f"{DIGITS}.tar",
    f"{DIGITS}.parquet",
    f"{DIGITS}_stats.json",
)
ELSEWHERE = "choose another `output`"
OVERWRITE = f"{ELSEWHERE}, or pass `overwrite`"


def check_folder(inputs: Iterable[str], folder: OutputFolder) -> None:
    """Refuse a folder that holds a score folder, or one of the `inputs` of a subset.

    Raises
    ------
    OutputError
    """
    if MANIFEST in folder.names():
        raise OutputError(f"{folder.name} is a score folder", ELSEWHERE)
    for name in folder.among(inputs):
        raise OutputError(f"{folder.name} holds {name}, which the scores were made from", ELSEWHERE)


def check_file(inputs: Iterable[str], place: str, overwrite: bool) -> None:
    """Refuse a file that exists (unless `overwrite`), or that belongs to something else.

    Raises
    ------
    OutputError
        If the file is one of the `inputs`, or part of a score folder or of an emitted subset.
    """
    path = local_path(place)
    if path is not None and path.is_dir():
        raise OutputError(f"{path} is a folder", "choose a file as `output`")
    folder, name = parent_folder(place)
    if name not in folder.names():
        return
    full = redacted(place)
    if name in folder.among(inputs):
        raise OutputError(f"{full} is what the scores were made from", ELSEWHERE)
    part = _is_part_of_stored(place) if path is None else is_part_of_scores(real(path))
    if part:
        raise OutputError(f"{full} is part of a score folder", ELSEWHERE)
    if name in _Held.of(folder).own:
        raise OutputError(f"{full} is part of a subset", ELSEWHERE)
    if not overwrite:
        raise OutputError(f"{full} exists", OVERWRITE)


def writing_folder(
    folder: OutputFolder, plan: dict[str, Any], overwrite: bool
) -> tuple[OutputFolder, bool]:
    """Return the folder to write into, and whether it holds the finished subset already.

    That is `folder` itself if it is empty or holds a part of this subset. To overwrite another one
    it is a subfolder, so that the old subset stays until `finish_replacement`.

    Parameters
    ----------
    plan : dict
        What identifies the subset.

    Raises
    ------
    OutputError
        If `folder` holds anything else.
    """
    held, replacement = _Held.of(folder), folder.subfolder(REPLACEMENT)
    if held.names and not held.summary and not held.plan:
        raise OutputError(
            f"{folder.name} is not empty and does not hold a subset", "choose a new folder"
        )
    if not held.names or (not held.summary and held.plan == plan):
        _remove(replacement, _Held.of(replacement))
        return folder, False
    if not overwrite and held.summary.get("emitted") == plan:
        return folder, True
    if not overwrite:
        begun = held.summary.get("emitted") or held.plan
        raise OutputError(
            f"{folder.name} is not empty and does not hold a part of this subset, but one of "
            f"{_difference(begun, plan)}",
            OVERWRITE,
        )
    taken = held.matching | ({CARD} & held.names if plan["card"] else set())
    for name in sorted(taken - held.own):
        raise OutputError(
            f"{folder.name} holds {name}, which is not part of the subset in it",
            "move it elsewhere, or choose another `output`",
        )
    begun = _Held.of(replacement)
    if begun.plan != plan:
        _remove(replacement, begun)
        if begun.names - begun.own:
            raise OutputError(f"{replacement.name} is not clipdre's", "move it elsewhere")
    return replacement, False


def finish_replacement(folder: OutputFolder) -> None:
    """Put a finished replacement in the place of the old subset.

    If this is interrupted, calling it again finishes it. Meanwhile the folder has no summary, so
    nobody takes it for a subset.
    """
    replacement = folder.subfolder(REPLACEMENT)
    new = _Held.of(replacement)
    if not new.summary:
        return
    old = _Held.of(folder)
    folder.remove(SUMMARY)
    # Without a summary or a plan this was interrupted, and what is not of the new subset is old.
    for name in sorted((old.own or old.matching) - _files(new.summary)):
        folder.remove(name)
    for name in sorted(new.own - {SUMMARY}):
        folder.take(REPLACEMENT, name)
    folder.take(REPLACEMENT, SUMMARY)
    folder.remove(UNFINISHED)
    _remove(replacement, _Held.of(replacement))


def _difference(before: object, now: dict[str, Any]) -> str:
    """Return how a subset differs from the one that is planned, in words."""
    settings = [
        {name: value for name, value in plan.items() if name != "digest"}
        for plan in (before, now)
        if isinstance(plan, dict)
    ]
    if len(settings) < 2 or settings[0] == settings[1]:
        return "other samples"
    return f"other settings ({changed(*settings)})"


@dataclass(frozen=True)
class _Held:
    """What a folder holds.

    Attributes
    ----------
    names : set of str
    summary : dict
        Of a finished subset, else empty.
    plan : dict
        Of an unfinished subset, else empty.
    """

    names: set[str]
    summary: dict[str, Any]
    plan: dict[str, Any]

    @classmethod
    def of(cls, folder: OutputFolder) -> _Held:
        names = {name for name in folder.names() if name != REPLACEMENT}
        summary, plan = (
            read_json(folder, name) if name in names else {} for name in (SUMMARY, UNFINISHED)
        )
        return cls(names, summary, plan)

    @property
    def matching(self) -> set[str]:
        """Names that emission gives."""
        return {name for name in self.names if any(fnmatch(name, p) for p in PATTERNS)}

    @property
    def own(self) -> set[str]:
        """Files of the subset, finished or not; empty if there is none."""
        if self.summary:
            return self.names & _files(self.summary)
        return self.matching if self.plan else set()


def _files(summary: dict[str, Any]) -> set[str]:
    """Return the names of all files of a finished subset."""
    shards, plan = summary.get("shards"), summary.get("emitted")
    shards = shards if isinstance(shards, list) else []
    tars = [str(shard.get("name")) for shard in shards if isinstance(shard, dict)]
    stems = [tar.removesuffix(".tar") for tar in tars if TAR.fullmatch(tar)]
    own = {f"{stem}{end}" for stem in stems for end in (".tar", ".parquet", "_stats.json")}
    own |= {SUMMARY, UNFINISHED, SIZES}
    own |= {RENAMED} if summary.get("renamed") else set()
    return own | ({CARD} if isinstance(plan, dict) and plan.get("card") else set())


def _remove(replacement: OutputFolder, held: _Held) -> None:
    for name in sorted(held.own, key=(SUMMARY, UNFINISHED).__contains__):  # these say what it is
        replacement.remove(name)
    replacement.remove_leftovers()
    replacement.rmdir()


def _is_part_of_stored(url: str) -> bool:
    """Whether a URL is that of a file where `clipdre score` writes in a store."""
    names = url.split("/")
    return any(
        names[n] in (MANIFEST, REPLACEMENT, *PARTS)
        and MANIFEST in output_folder("/".join(names[:n])).names()
        for n in range(3, len(names))
    )


def is_part_of_scores(path: Path) -> bool:
    """Whether a file lies where `clipdre score` writes."""
    return any(
        (folder / MANIFEST).is_file()
        and path.relative_to(folder).parts[0] in (MANIFEST, REPLACEMENT, *PARTS)
        for folder in path.parents
    )
