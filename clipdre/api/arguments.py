"""Arguments as Python users write them: strings, paths, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

from clipdre.errors import UsageError

Choice = TypeVar("Choice", bound=Enum)
Places = str | Path | Sequence[str | Path]


def listed(places: Places) -> list[str]:
    """Return one place or several as a list: a string is not a sequence of letters here."""
    return [str(place) for place in ([places] if isinstance(places, str | Path) else places)]


def chosen(choices: type[Choice], value: str, name: str) -> Choice:
    """Return a choice by its value; `UsageError` if there is no such choice."""
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise UsageError(f"invalid `{name}` {value!r}", f"choose from {known}") from None
