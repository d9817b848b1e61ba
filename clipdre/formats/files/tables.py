"""Which tables a user means: files, folders of them, or glob patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipdre.errors import SelectionError
from clipdre.formats.files.storage import CHECK_PATH, real, regular
from clipdre.formats.files.subfolders import folders_below

SUFFIX = ".parquet"
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def is_csv(file: str) -> bool:
    """Return whether a table is CSV by its name; others are Parquet."""
    return file.lower().endswith(CSV)


def expand_tables(places: Sequence[str | Path], name: str) -> list[Path]:
    """Return the files that paths and glob patterns stand for, each once, links resolved.

    A folder stands for its files that end in ``.parquet`` and those of its subfolders, without
    hidden ones.

    Parameters
    ----------
    name : str
        What messages call the parameter.

    Raises
    ------
    SelectionError
        If one of them stands for no file, or for a pipe or the like.
    """
    files: list[Path] = []
    for place in places:
        try:
            files += (real(regular(path)) for path in _expand(str(place), name))
        except OSError as error:
            problem = f"cannot read {name} {place} ({error.strerror})"
            raise SelectionError(problem, CHECK_PATH) from error
    return list(dict.fromkeys(files))


def _expand(place: str, name: str) -> Iterator[Path]:
    path = Path(place)
    if path.is_dir():
        folders = folders_below(path)
        tables = [t for folder in folders for t in sorted(folder.glob(f"[!.]*{SUFFIX}"))]
        if not tables:
            raise SelectionError(
                f"folder {name} {place} and its subfolders hold no {SUFFIX} files",
                "name the one that holds them",
            )
        yield from tables
    elif path.exists():
        yield path
    elif glob.has_magic(place):
        matches = sorted(glob.glob(place, recursive=True))
        if not matches:
            raise SelectionError(f"no file matches {name} {place}", "check the pattern")
        for match in matches:
            yield from _expand(match, name)
    else:
        raise SelectionError(f"{name} {place} does not exist", CHECK_PATH)
