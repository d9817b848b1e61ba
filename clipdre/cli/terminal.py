"""Tables and notes on stderr."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNSEEN_WIDTH = 100


def note(message: str) -> None:
    """One line on stderr."""
    _console().print(Text(strip_controls(message)), soft_wrap=True)


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1
) -> None:
    """A table on stderr: the first columns, which are words, to the left, numbers to the right."""
    drawn = Table(box=SIMPLE_HEAD, header_style="", pad_edge=False)
    for n, name in enumerate(header):
        drawn.add_column(name, justify="left" if n < words else "right")
    for row in rows:
        drawn.add_row(*(Text(strip_controls(cell)) for cell in row))
    console = _console()
    console.print(Text(strip_controls(title), style="bold"), soft_wrap=True)
    console.print(drawn)


def strip_controls(text: str) -> str:
    """`text` without control characters: what strangers wrote must not steer a terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _controls(c) else c for c in text)


def _controls(character: str) -> bool:
    return character != "\n" and unicodedata.category(character) in ("Cc", "Cf")


def _console() -> Console:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        console.width = UNSEEN_WIDTH
    return console
