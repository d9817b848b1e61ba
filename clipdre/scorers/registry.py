"""Which scorers there are: one per file of this package, and those of installed packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib import metadata
from typing import Any

import clipdre.scorers
from clipdre.errors import UsageError
from clipdre.scorers.base import Scorer
from clipdre.words import closest

GROUP = "clipdre.scorers"
NOT_SCORERS = ("base", "common", "registry")


def scorers() -> dict[str, type[Scorer]]:
    """Return all scorers by name, sorted; an installed one cannot replace one of ours."""
    found: dict[str, type[Scorer]] = {}
    for entry in metadata.entry_points(group=GROUP):
        scorer = entry.load()
        found[scorer.name] = scorer
    found |= {scorer.name: scorer for scorer in _own()}
    return dict(sorted(found.items()))


def find_scorer(name: str) -> type[Scorer]:
    """Return the scorer of a name; `UsageError` if there is none."""
    known = scorers()
    if name not in known:
        hint = closest(name, list(known)) or f"there are {', '.join(known)}"
        raise UsageError(f"unknown scorer {name}", hint)
    return known[name]


def _own() -> list[type[Scorer]]:
    names = [m.name for m in pkgutil.iter_modules(clipdre.scorers.__path__)]
    modules = [
        importlib.import_module(f"{clipdre.scorers.__name__}.{name}")
        for name in names
        if name not in NOT_SCORERS
    ]
    return [
        value for module in modules for value in vars(module).values() if _is_scorer(value, module)
    ]


def _is_scorer(value: Any, module: Any) -> bool:
    return (
        inspect.isclass(value)
        and value.__module__ == module.__name__
        and all(hasattr(value, name) for name in ("name", "columns", "fit", "score"))
    )
