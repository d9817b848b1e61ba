"""Read the TOML file of a recipe, with one clear line about the first mistake in it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

from clipdre.errors import SelectionError, UsageError
from clipdre.formats.files.storage import regular
from clipdre.only_with import OnlyWith, check
from clipdre.selecting.rules import AMOUNTS, Step
from clipdre.words import closest, one_line

TEXTS, LISTS = ("title", "source"), ("expects", "models", "scales")
FIELDS = (*TEXTS, *LISTS, "measures", "options", "steps")
PAIRINGS = (
    OnlyWith("models", ("scales",), because="the options to set for another model"),
    OnlyWith("scales", ("models",), because="the models that the options' values apply to"),
)
MOST_STEPS = 100
COUNTS = ("cap", "bins", "per_round")
# Accepted types of a step's fields; a string may hold an ``{option}``.
STEP_TYPES: dict[str, tuple[type, ...]] = {
    **{f.name: (str,) for f in fields(Step)},
    **dict.fromkeys(AMOUNTS, (str, int, float)),
    **dict.fromkeys(COUNTS, (str, int)),
    "uniform": (bool,),
    "penalty": (str, int, float),
}
WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def read_recipe_file(path: Path) -> dict[str, Any]:
    """Return the fields of a recipe file; every one of `FIELDS` is there, of the right type.

    Raises
    ------
    SelectionError
        If the file is not valid TOML, or has a missing, unknown or mistyped field.
    """
    place = f"recipe {path.stem}"
    try:
        raw = tomllib.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot read recipe file {path} ({one_line(error)})"
        raise SelectionError(problem, "fix the file") from error
    for name in raw:
        check_known(name, FIELDS, place, "field")
    for name in (*TEXTS, "steps"):
        if not raw.get(name):
            raise SelectionError(f"{place} has no {name}", "add it, as recipe log-ratio does")
    for name in TEXTS:
        _check_type(raw[name], (str,), name, place)
    for name in LISTS:
        if not _is_list_of(raw.setdefault(name, []), str):
            raise SelectionError(f"{place}: {name} is not a list of strings", "put it in [...]")
    _check_measures(raw.setdefault("measures", {}), raw["expects"], place)
    _check_table(raw.setdefault("options", {}), (str, float, int), "options", place)
    _check_steps(raw["steps"], place)
    for name in raw["scales"]:
        check_known(name, tuple(raw["options"]), place, "option")
    with located(place):
        check(raw, PAIRINGS)
    return raw


@contextmanager
def located(place: str) -> Iterator[None]:
    """Add the place in a recipe to errors; names are those of its fields, not parameters."""
    try:
        yield
    except (UsageError, SelectionError) as error:
        problem, cure = (text.replace("`", "") for text in (error.problem, error.cure))
        raise SelectionError(f"{place}: {problem}", cure) from error


def check_known(name: str, known: Sequence[str], place: str, what: str) -> None:
    """Raise `SelectionError`, with a suggestion, unless `name` is one of `known`."""
    if name in known:
        return
    cure = closest(name, known) or f"choose from {', '.join(known) or 'none'}"
    raise SelectionError(f"{place} has no {what} {name!r}", cure)


def _check_measures(measures: object, expected: Sequence[str], place: str) -> None:
    _check_table(measures, (str,), "measures", place)
    assert isinstance(measures, dict)
    for name, command in measures.items():
        check_known(name, tuple(expected), f"{place}, expects", "column")
        if not command.isprintable():  # it is shown
            raise SelectionError(f"{place}, measures: {name} is not one line", "make it one")


def _check_table(table: object, kinds: tuple[type, ...], field: str, place: str) -> None:
    if not isinstance(table, dict):
        raise SelectionError(f"{place}: {field} is not a table", f"put them under [{field}]")
    for name, value in table.items():
        _check_type(value, kinds, name, f"{place}, {field}")


def _check_steps(steps: object, place: str) -> None:
    if _is_list_of(steps, dict) and len(steps) > MOST_STEPS:
        raise SelectionError(f"{place} has {len(steps):,} steps", f"use at most {MOST_STEPS}")
    if not _is_list_of(steps, dict):
        raise SelectionError(f"{place}: steps is not a list of tables", "start each with [[steps]]")
    for n, step in enumerate(steps, start=1):
        for name, value in step.items():
            check_known(name, tuple(STEP_TYPES), f"{place}, step {n}", "field")
            _check_type(value, STEP_TYPES[name], name, f"{place}, step {n}")


def _is_list_of(value: object, kind: type) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _check_type(value: object, kinds: tuple[type, ...], name: str, place: str) -> None:
    # bool is a subclass of int, but true is not a number here.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(WORDS[kind] for kind in kinds if kind is not int or float not in kinds)
        raise SelectionError(f"{place}: {name} = {value!r} has the wrong type", f"use {wanted}")
