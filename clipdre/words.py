"""Words for messages and notebooks: numbers with their nouns, names that were meant, tables."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from html import escape

NUMBER = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([kmgt]?)", re.IGNORECASE | re.ASCII)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 shard", "1,200 shards"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def whole_number(text: str) -> int:
    """Return the number that a text such as "2000", "10k" or "1.5M" stands for; else ValueError."""
    found = NUMBER.fullmatch(text.strip().replace("_", "").replace(",", ""))
    number = Decimal(found[1]) * UNITS[found[2].lower()] if found else Decimal("0.5")
    if number != int(number):
        raise ValueError(f"{text!r} is not a whole number")
    return int(number)


def size(nbytes: float) -> str:
    """Return a number of bytes in the unit that suits it: "512 B", "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:,.0f} {unit}" if unit == "B" or nbytes >= 99.5 else f"{nbytes:.1f} {unit}"


def closest(name: str, known: Sequence[str], most: int = 3) -> str:
    """Return a hint for a name that is not `known`: the closest names; empty if none is close."""
    close = similar(name, known, most=most)
    names = " or ".join(filter(None, [", ".join(close[:-1]), *close[-1:]]))
    return f"did you mean {names}?" if close else ""


def similar(name: str, known: Sequence[str], cutoff: float = 0.5, most: int = 3) -> list[str]:
    """Return the `known` names that are closest, or that contain the name or are part of it."""
    lower, by_lower = name.lower(), {k.lower(): k for k in known}
    close = difflib.get_close_matches(lower, by_lower, n=most, cutoff=cutoff)
    close += [k for k in by_lower if k not in close and (lower in k or k in lower)]
    return [by_lower[k] for k in close[:most]]


def changed(before: object, now: object) -> str:
    """Return two values of one setting: "3 then, 5 now"; of tables, those that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [n for n in {**before, **now} if before.get(n) != now.get(n)]
        before, now = ([f"{n} {_shown(of.get(n))}" for n in names] for of in (before, now))
    return f"{_shown(before)} then, {_shown(now)} now"


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return "none" if value is None or not str(value) else str(value)


def one_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def operand(path: object) -> str:
    """Return a path as a command can take it: one that starts with a dash is not an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def strip_controls(text: str) -> str:
    """Replace control and format characters: text from a shard must not steer the terminal."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    return character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs")


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for notebooks; all text is escaped."""
    lines = [
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        for tag, cells in (("th", header), *(("td", row) for row in rows))
    ]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><caption>{escape(title)}</caption>{body}</table>"


def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as lines of text, the first column to the left, others to the right."""
    cells = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([title, *lines])
