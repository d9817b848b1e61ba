"""Where a subset may go: never over its sources or scores, and over nothing but a subset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from clipdre.errors import OutputError
from clipdre.formats.files.outputs import OutputFolder, parent_folder, read_json
from clipdre.formats.files.remote import local_path, redacted
from clipdre.formats.files.storage import REPLACEMENT
from clipdre.formats.folders.folder import PARTS
from clipdre.formats.folders.manifest import MANIFEST

SUMMARY = "summary.json"
UNFINISHED = "unfinished.json"
RENAMED = "renamed.parquet"
SIZES = "sizes.json"
CARD = "README.md"
DIGITS = "[0-9]" * 8
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
    held = next((url for url in inputs if folder.contains(url)), None)
    if held is not None:
        name = held.rpartition("/")[2]
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
    if any(folder.contains(url, name) for url in inputs):
        raise OutputError(f"{full} is what the scores were made from", ELSEWHERE)
    if path is not None and _is_part_of_scores(path.resolve()):
        raise OutputError(f"{full} is part of a score folder", ELSEWHERE)
    if name in _own_files(folder):
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
    replacement = folder.subfolder(REPLACEMENT)
    there = [name for name in folder.names() if name != REPLACEMENT]
    finished = read_json(folder, SUMMARY)
    begun = read_json(folder, UNFINISHED)
    if there and not finished and not begun:
        raise OutputError(
            f"{folder.name} is not empty and does not hold a subset", "choose a new folder"
        )
    if not there or (not finished and begun == plan):
        _clear(replacement)
        return folder, False
    if not overwrite and finished.get("emitted") == plan:
        return folder, True
    if not overwrite:
        raise OutputError(
            f"{folder.name} is not empty and does not hold a part of this subset", OVERWRITE
        )
    written = {*_matching(folder), *([CARD] if plan["card"] else [])}
    foreign = sorted(written.intersection(there) - _own_files(folder))
    if foreign:
        raise OutputError(
            f"{folder.name} holds {foreign[0]}, which is not part of the subset in it",
            "move it elsewhere, or choose another `output`",
        )
    if read_json(replacement, UNFINISHED) != plan:
        _clear(replacement)
    return replacement, False


def finish_replacement(folder: OutputFolder) -> None:
    """Put a finished replacement in the place of the old subset.

    If this is interrupted, calling it again finishes it. Meanwhile the folder has no summary, so
    nobody takes it for a subset.
    """
    replacement = folder.subfolder(REPLACEMENT)
    summary = read_json(replacement, SUMMARY)
    if not summary:
        return
    old = _own_files(folder) or set(_matching(folder))
    folder.remove(SUMMARY)
    for name in sorted(old - _files(summary)):
        folder.remove(name)
    for name in [name for name in replacement.names() if name != SUMMARY]:
        folder.take(replacement, name)
    folder.take(replacement, SUMMARY)
    folder.remove(UNFINISHED)
    _clear(replacement)


def _clear(replacement: OutputFolder) -> None:
    for name in list(_matching(replacement)):
        replacement.remove(name)
    replacement.remove_leftovers()
    replacement.rmdir()


def _is_part_of_scores(path: Path) -> bool:
    """Whether a file lies where `clipdre score` writes."""
    return any(
        (folder / MANIFEST).is_file()
        and path.relative_to(folder).parts[0] in (MANIFEST, REPLACEMENT, *PARTS)
        for folder in list(path.parents)[:4]
    )


def _own_files(folder: OutputFolder) -> set[str]:
    """Return the files of the subset in `folder`, finished or not; empty if there is none."""
    summary = read_json(folder, SUMMARY)
    if summary:
        return _files(summary)
    return set(_matching(folder)) if read_json(folder, UNFINISHED) else set()


def _files(summary: dict[str, Any]) -> set[str]:
    """Return the names of all files of a finished subset."""
    stems = [str(shard["name"]).removesuffix(".tar") for shard in summary.get("shards", [])]
    ends = (".tar", ".parquet", "_stats.json")
    own = {f"{stem}{end}" for stem in stems for end in ends}
    own |= {SUMMARY, UNFINISHED, SIZES}
    own |= {RENAMED} if summary.get("renamed") else set()
    return own | ({CARD} if summary.get("emitted", {}).get("card") else set())


def _matching(folder: OutputFolder) -> Iterator[str]:
    return (name for name in folder.names() if any(fnmatch(name, p) for p in PATTERNS))
