"""Recipes: selection rules as TOML files that are easy to copy and change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdre.core.scores import SCORE_COLUMNS
from clipdre.errors import SelectionError
from clipdre.formats.folders.columns import GROUP, RANK
from clipdre.only_with import check
from clipdre.selecting.recipe_file import COUNTS, check_known, located, read_recipe_file
from clipdre.selecting.rules import (
    AMOUNTS,
    STEP_PAIRINGS,
    Amount,
    Rule,
    Step,
    parse_amount,
    parse_cap,
)
from clipdre.sql.query import ScoreQuery
from clipdre.words import operand

FOLDER = Path(__file__).parents[1] / "recipes"
SUFFIX = ".toml"
BUDGET = "budget"
MEASURE = "clipdre measure"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Settings become part of SQL expressions, so only plain numbers and names are allowed.
SETTING = re.compile(r"[\w.+-]+%?")
# Columns that `score` always writes.
WRITTEN = {*SCORE_COLUMNS, GROUP.name, RANK.name}
Setting = str | int | float


@dataclass(frozen=True)
class Recipe:
    """A rule with options, its source and its requirements.

    Attributes
    ----------
    name : str
        Name of the file, without its suffix.
    title, source : str
        What the recipe keeps, and where it was published.
    expects : tuple of str
        Columns that it needs.
    measures : dict
        What `clipdre measure SCORES` is given to add a column: its scorer and options.
    models : tuple of str
        Models whose scores its numbers apply to; empty if they apply to any.
    scales : tuple of str
        Options that hold such numbers. Setting all of them makes the recipe valid for any model.
    options : dict
        Default values; ``budget`` is the size of the subset.
    steps : tuple of dict
        Attributes of each `Step`; ``{option}`` stands for the value of an option.
    """

    name: str
    title: str
    source: str
    expects: tuple[str, ...] = ()
    measures: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    options: dict[str, Setting] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()

    def rule(
        self,
        query: ScoreQuery,
        settings: Mapping[str, Setting] | None = None,
        budget: Amount | None = None,
        first: Sequence[Step] = (),
        seed: int = 0,
    ) -> Rule:
        """Return the rule for the scores of `query`.

        Parameters
        ----------
        settings : mapping
            Values of options, instead of their defaults.
        budget : Amount or None
            Size of the subset, instead of its default.
        first : sequence of Step
            Steps to apply before the recipe.

        Raises
        ------
        SelectionError
            If a setting is unknown or malformed, a column is missing, or the recipe's numbers
            apply to another model.
        """
        settings = settings or {}
        for name, value in settings.items():
            check_known(name, tuple(self.options), f"recipe {self.name}", "option")
            if not SETTING.fullmatch(str(value)):
                raise SelectionError(
                    f"`settings` {name}={value} is not a number or a name",
                    "use only letters, digits and the characters _ . + - %",
                )
        if budget is not None and BUDGET not in self.options:
            raise SelectionError(
                f"recipe {self.name} does not take a `budget`",
                "drop it, since the steps say how much to keep",
            )
        self._check_scores(query, settings)
        options = {**self.options, **settings}
        if budget is None and BUDGET in options:
            with located(f"recipe {self.name}"):
                budget = parse_amount(options[BUDGET], BUDGET)
        steps = [self._step(n, step, options) for n, step in enumerate(self.steps, start=1)]
        with located(f"recipe {self.name}"):
            return Rule((*first, *steps), budget, seed, self.name, extra=len(first))

    def _check_scores(self, query: ScoreQuery, settings: Mapping[str, Setting]) -> None:
        check_columns(self.expects, query, f"recipe {self.name}", self.measures)
        record = query.manifest.model
        model = f"{record.name} ({record.pretrained})" if record.pretrained else record.name
        if not self.models or model in self.models or set(self.scales) <= set(settings):
            return
        cure = " and ".join(f"`settings` {name}=NUMBER" for name in self.scales)
        raise SelectionError(
            f"the numbers of recipe {self.name} apply to scores of {' or '.join(self.models)}, "
            f"not of {model}",
            f"pass {cure}, or rank with `by` and `top`",
        )

    def _step(self, n: int, raw: Mapping[str, Any], options: Mapping[str, Setting]) -> Step:
        place = f"recipe {self.name}, step {n}"

        def value_of(found: re.Match[str]) -> str:
            check_known(found[1], tuple(options), place, "option")
            return str(options[found[1]])

        filled = {
            name: PLACEHOLDER.sub(value_of, value) if isinstance(value, str) else value
            for name, value in raw.items()
        }
        with located(place):
            check(filled, STEP_PAIRINGS)
            values = {name: _parsed(name, value) for name, value in filled.items()}
            return Step(**values)


def check_columns(
    expected: Sequence[str],
    query: ScoreQuery,
    what: str,
    measures: Mapping[str, str] | None = None,
) -> None:
    """Raise `SelectionError` unless the scores have all `expected` columns.

    Parameters
    ----------
    measures : mapping or None
        As in `Recipe`, for the cure.
    """
    missing = [name for name in expected if name not in query.columns]
    if not missing:
        return
    needs = ", ".join(missing)
    problem = f"{what} needs {needs}, which these scores do not have"
    if set(missing) & WRITTEN:
        cure = "an earlier clipdre made them: score the shards again with `overwrite`"
        raise SelectionError(problem, cure)
    found = dict.fromkeys((measures or {}).get(name) for name in missing)
    place = shlex.quote(operand(query.folder.store.name))
    commands = [f"'{MEASURE} {place} {own}'" for own in found if own]
    measure = f"run {' and '.join(commands)}" if commands else f"measure them with '{MEASURE}'"
    raise SelectionError(problem, f"{measure}, or join a file that has them with `joined`")


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with clipdre."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe's file, if it is a recipe; `name` as in `read_recipe`."""
    path = _path(name)
    read_recipe_file(path)
    return path.read_text(encoding="utf-8")


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    name : str
        Name of a recipe that ships with clipdre, or the path of a file: with a slash, or ending in
        ``.toml``.

    Raises
    ------
    SelectionError
        If the recipe does not exist, is not valid TOML, or has a missing, unknown or mistyped
        field.
    """
    path = _path(name)
    raw = read_recipe_file(path)
    return Recipe(
        path.stem,
        raw["title"],
        raw["source"],
        expects=tuple(raw["expects"]),
        measures=raw["measures"],
        models=tuple(raw["models"]),
        scales=tuple(raw["scales"]),
        options=raw["options"],
        steps=tuple(raw["steps"]),
    )


def _path(name: str) -> Path:
    if "/" in name or name.endswith(SUFFIX):
        if not Path(name).is_file():
            raise SelectionError(f"there is no recipe file {name}", "check the path")
        return Path(name)
    check_known(name, recipe_names(), "clipdre", "recipe")
    return FOLDER / f"{name}{SUFFIX}"


def _parsed(name: str, value: Any) -> Any:
    if name in AMOUNTS:
        return parse_amount(value, name, of_budget=True)
    if name == "cap":
        return parse_cap(value)
    if name == "penalty":
        return _number(value)
    if name not in COUNTS:
        return value
    if not str(value).isdecimal():
        raise SelectionError(f"`{name}` {value!r} is not a count", "use a whole number such as 100")
    return int(value)


def _number(value: str | float) -> float:
    try:
        return float(value)
    except ValueError:
        raise SelectionError(
            f"`penalty` {value!r} is not a number", "use one such as 0.15"
        ) from None
