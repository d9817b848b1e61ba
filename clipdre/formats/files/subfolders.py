"""Folders below folders: where shards and tables are looked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clipdre.formats.files.storage import regular
from clipdre.words import one_line

# What clipdre's own folders begin with: score folders, subsets, and unfinished subsets.
SUBSETS = {"summary.json": '"clipdre_version"', "unfinished.json": '"digest"'}
OWN = {"manifest.json": '"clipdre_version"', **SUBSETS}
BEGINNING = 200


def folders_below(*tops: Path) -> Iterator[Path]:
    """Yield folders and all below them, each once, whatever links lead to it.

    Hidden subfolders are left out, and those that clipdre wrote: a subset is no source of its pool.
    """
    seen = set[tuple[int, int]]()
    # Links come last, so that a folder goes by its own path if it has one here.
    left, links = [t for t in tops if not t.is_symlink()], [t for t in tops if t.is_symlink()]
    while left or links:
        folder = (left or links).pop()
        try:
            found = folder.stat()
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            if folder not in tops and _is_own(folder):
                continue
            with os.scandir(folder) as entries:
                below = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
        except OSError as error:
            warnings.warn(f"cannot look into {folder}: {one_line(error)}", stacklevel=2)
            continue
        yield folder
        for path in (folder / name for name in reversed(below)):
            (links if path.is_symlink() else left).append(path)


def _is_own(folder: Path) -> bool:
    """Whether clipdre wrote a folder; of a subset, which has tars like any pool, warn."""
    found = [name for name, mark in OWN.items() if _begins_with(folder / name, mark)]
    if not SUBSETS.keys().isdisjoint(found):
        warnings.warn(
            f"passing over {folder}, a subset that clipdre wrote: name it to read it too",
            stacklevel=3,
        )
    return bool(found)


def _begins_with(file: Path, mark: str) -> bool:
    with suppress(OSError), open(regular(file), "rb") as opened:
        return mark.encode() in opened.read(BEGINNING)
    return False
