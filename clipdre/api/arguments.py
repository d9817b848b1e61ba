"""Arguments as Python users write them: strings, paths, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

from clipdre.config import EngineConfig, EngineName
from clipdre.errors import UsageError
from clipdre.only_with import WITH_RAY, check

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


def engine_config(
    engine: EngineName | str, address: str | None, cpus_per_worker: int | None
) -> EngineConfig:
    """Return where to run; `UsageError` if there is no such engine, or it has no such settings."""
    check({"engine": engine, "address": address, "cpus_per_worker": cpus_per_worker}, WITH_RAY)
    return EngineConfig(chosen(EngineName, engine, "engine"), address, cpus_per_worker)
