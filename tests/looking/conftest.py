"""A browser, for tests of what people see."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium without a window."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Without a sandbox of its own, which root and containers cannot have.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser; what goes wrong in it is collected."""

    def __init__(self, browser: object, path: Path, **options: object) -> None:
        self.problems: list[str] = []
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._requested)
        self.page.goto(path.as_uri())

    def _requested(self, request: object) -> None:
        if not request.url.startswith(("data:", "file:")):
            self.problems.append(f"request of {request.url}")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def run(self, script: str, argument: object = None) -> object:
        return self.page.evaluate(script, argument)


@pytest.fixture
def visit(browser: object) -> Iterator[Callable[..., Visit]]:
    """Open a page; it must not complain, nor ask for anything from elsewhere."""
    visits = []

    def opened(path: Path, **options: object) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield opened
    for one in visits:
        one.page.close()
        assert one.problems == []
