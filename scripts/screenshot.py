"""Take the picture of a page that README shows.

make demo && python scripts/screenshot.py demo/page.html docs/images/look.png
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1280, 820


def main(
    page: Annotated[Path, typer.Argument(help="What 'clipdre look' wrote.")],
    output: Annotated[Path, typer.Argument(help="PNG file to write.")],
    section: Annotated[str, typer.Option(help="Section of the page.")] = "cut",
) -> None:
    """Open a page in Chromium and save how a section of it looks."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    program = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("#cut-chart canvas")
        tab.locator(f"#{section}").scroll_into_view_if_needed()
        tab.wait_for_timeout(1_000)
        tab.locator(f"#{section}").screenshot(path=output)


if __name__ == "__main__":
    typer.run(main)
