"""Lists of names or paths as text, from any tool."""

from __future__ import annotations

BOM = "\ufeff"


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text without blank ones.

    A byte order mark is dropped. A line ends with a NUL if there is one, as ``find -print0`` writes
    them, else with ``\n`` or ``\r\n``.
    """
    text = text.removeprefix(BOM)
    if "\0" in text:
        lines = text.split("\0")
    else:
        lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line.strip()]
