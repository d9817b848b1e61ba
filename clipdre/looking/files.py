"""Where a page may be written: checked before the work, without loading what the work needs."""

from __future__ import annotations

from pathlib import Path

from clipdre.errors import OutputError

# By this a page is recognised, so that a new one may take its place.
MARK = "<!doctype html><!-- clipdre look -->"


def check_replaceable(path: Path) -> None:
    """Check that a page may be written to a path: nothing is there, or an earlier page.

    Raises
    ------
    OutputError
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name a file, such as page.html")
    if not path.exists():
        return
    if not path.is_file() or not _is_page(path):
        raise OutputError(
            f"{path} exists and is not a page of 'clipdre look'",
            "choose another name, or add `overwrite`",
        )


def _is_page(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(MARK)) == MARK.encode()
    except OSError:
        return False
