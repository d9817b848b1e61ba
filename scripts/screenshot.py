"""Take the picture of a page that README shows.

make demo && python scripts/screenshot.py demo/page.html docs/images/look.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from browser import chromium, opened

WIDTH, HEIGHT = 1280, 820


def main(
    page: Annotated[Path, typer.Argument(help="What 'clipdre look' wrote.")],
    output: Annotated[Path, typer.Argument(help="PNG file to write.")],
    section: Annotated[str, typer.Option(help="Section of the page.")] = "cut",
) -> None:
    """Open a page in Chromium and save how a section of it looks."""
    program = chromium()
    if program is None:
        sys.exit("install Chromium to take a picture")
    with opened(page, program, WIDTH, HEIGHT) as found:
        tab = found.tab
        tab.locator(f"#{section}").scroll_into_view_if_needed()
        tab.wait_for_timeout(1_000)
        tab.locator(f"#{section}").screenshot(path=output)


if __name__ == "__main__":
    typer.run(main)
