"""Chromium without a window, for scripts that look at pages."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Opened(NamedTuple):
    """A tab with a page, and seconds until its first chart was there."""

    tab: Any
    seconds: float


NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Return the path of an installed Chromium; None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(page: Path, program: str, width: int, height: int) -> Iterator[Opened]:
    """Open a page of `clipdre look` in a tab, and wait for its first chart."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        start = time.perf_counter()
        tab.goto(page.absolute().as_uri())
        tab.wait_for_selector("#cut-chart canvas")
        yield Opened(tab, time.perf_counter() - start)
        browser.close()
