"""Recipes: rules of selection as TOML files that are plain to copy and change."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from clipdre.errors import SelectionError
from clipdre.selecting.rules import AMOUNTS, Amount, Rule, Step, parse_amount
from clipdre.sql.query import ScoreQuery

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[1] / "recipes"
BUDGET = "budget"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What an option may be set to: it becomes part of an expression.
SETTING = re.compile(r"[\w.+-]+%?")
STEP_FIELDS = tuple(f.name for f in fields(Step))
Setting = str | int | float


@dataclass(frozen=True)
class Recipe:
    """A rule with options, its source, and what it needs.

    Attributes
    ----------
    name : str
        Of its file.
    title, source : str
        What it does, and where it was published.
    expects : tuple of str
        Columns that it reads.
    models : tuple of str
        The models whose scores it was made for, where its numbers depend on one.
    scales : tuple of str
        The options that hold such numbers: whoever sets them all may use any model.
    options : dict
        Defaults; ``budget`` is the size of the subset.
    steps : tuple of dict
        Attributes of `Step`; ``{option}`` stands for an option's value.
    """

    name: str
    title: str
    source: str
    expects: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    options: dict[str, Setting] = field(default_factory=dict)
    steps: tuple[dict[str, Any], ...] = ()

    def rule(
        self,
        query: ScoreQuery,
        settings: Mapping[str, str] | None = None,
        budget: Amount | None = None,
        where: str | None = None,
        seed: int = 0,
    ) -> Rule:
        """The rule for the scores of `query`.

        Parameters
        ----------
        settings : mapping
            Options other than their defaults.
        where : str or None
            A condition that comes before the recipe.

        Raises
        ------
        SelectionError
            When there is no such option, the scores are of another model than the recipe's numbers,
            or have not what it reads.
        """
        settings = settings or {}
        for name, value in settings.items():
            _check_known(name, tuple(self.options), f"recipe {self.name}", "option")
            if not SETTING.fullmatch(value):
                raise SelectionError(f"--set {name}={value} is no number or name")
        self._check_scores(query, settings)
        options = {**self.options, **settings}
        size = budget
        if size is None and BUDGET in options:
            size = parse_amount(str(options[BUDGET]), BUDGET)
        if budget is not None and BUDGET not in self.options:
            raise SelectionError(f"recipe {self.name} has no budget: it keeps what its steps say")
        steps = [Step(where=where)] if where else []
        steps += [self._step(n, step, options) for n, step in enumerate(self.steps, start=1)]
        return Rule(tuple(steps), size, seed, self.name)

    def _check_scores(self, query: ScoreQuery, settings: Mapping[str, str]) -> None:
        missing = [name for name in self.expects if name not in query.columns]
        if missing:
            raise SelectionError(
                f"recipe {self.name} reads {', '.join(missing)}, which these scores have not: "
                "join a file that has it by --with"
            )
        record = query.manifest.model
        model = f"{record.name} ({record.pretrained})" if record.pretrained else record.name
        if not self.models or model in self.models or set(self.scales) <= set(settings):
            return
        cure = " ".join(f"--set {name}=NUMBER" for name in self.scales)
        raise SelectionError(
            f"the numbers of recipe {self.name} are for {' or '.join(self.models)}; these scores "
            f"are of {model}, which has another scale: give your own by {cure}, or rank by a share"
        )

    def _step(self, n: int, raw: Mapping[str, Any], options: Mapping[str, Setting]) -> Step:
        def filled(found: re.Match[str]) -> str:
            _check_known(found[1], tuple(options), f"recipe {self.name}, step {n}", "option")
            return str(options[found[1]])

        step: dict[str, Any] = {}
        for name, value in raw.items():
            text = PLACEHOLDER.sub(filled, value) if isinstance(value, str) else value
            if name in AMOUNTS:
                text = parse_amount(str(text), f"recipe {self.name}, step {n}: {name}")
            step[name] = int(text) if name in ("cap", "bins") and str(text).isdigit() else text
        return Step(**step)


RECIPE_FIELDS = tuple(f.name for f in fields(Recipe) if f.name != "name")


def recipe_names() -> list[str]:
    """Names of the recipes that come with clipdre."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_text(name: str) -> str:
    """A recipe's file as it is; `name` as in `read_recipe`."""
    return _path(name).read_text(encoding="utf-8")


def read_recipe(name: str) -> Recipe:
    """A recipe by its name or the path of its file.

    Raises
    ------
    SelectionError
        When there is none, it is no TOML, or has a field that recipes have not.
    """
    path = _path(name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SelectionError(f"recipe {name} cannot be read: {error}") from error
    where = f"recipe {name}"
    _check_fields(raw, RECIPE_FIELDS, where)
    for wanted in ("title", "source", "steps"):
        if not raw.get(wanted):
            raise SelectionError(f"{where} has no {wanted!r}: see 'clipdre recipes log-ratio'")
    steps = raw["steps"]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise SelectionError(f"{where}: each step is a table of its own, under [[steps]]")
    for n, step in enumerate(steps, start=1):
        _check_fields(step, STEP_FIELDS, f"{where}, step {n}")
        _check_types(step, f"{where}, step {n}")
    lists = {name: tuple(raw.pop(name, ())) for name in ("expects", "models", "scales")}
    options = raw.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(v, Setting) for v in options.values()):
        raise SelectionError(f"{where}: [options] are names with numbers or strings")
    return Recipe(
        path.stem, raw["title"], raw["source"], **lists, options=options, steps=tuple(steps)
    )


def _path(name: str) -> Path:
    given = Path(name)
    if given.suffix == ".toml" or given.exists():
        if not given.is_file():
            raise SelectionError(f"no recipe file {name}")
        return given
    _check_known(name, recipe_names(), "clipdre", "recipe")
    return FOLDER / f"{name}.toml"


def _check_fields(raw: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in raw:
        _check_known(name, known, where, "field")


def _check_types(step: Mapping[str, Any], where: str) -> None:
    for name, value in step.items():
        text = name in ("where", "by", "balance")
        wanted: Any = str if text else bool if name == "uniform" else (str, int, float)
        if not isinstance(value, wanted) or (not text and name != "uniform" and value is True):
            raise SelectionError(f"{where}: {name} = {value!r} is not of the right type")


def _check_known(name: str, known: Sequence[str], where: str, what: str) -> None:
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known) or 'none'}"
    raise SelectionError(f"{where} has no {what} {name!r}; {hint}")
