"""What commands that select rows have in common: their options as a request, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipdre.errors import UsageError
from clipdre.only_with import OnlyWith
from clipdre.selecting.rules import AMOUNTS, Amount
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.config import JoinKey
    from clipdre.selecting.request import Request
    from clipdre.selecting.select import Selection
    from clipdre.sql.joined import Join
    from clipdre.sql.query import ScoreQuery

# Pairs of a pool from which on few people want 100 or fewer.
LARGE = 10_000
RULES = ("distinct", "best", "where", "by", "top", "bottom", "sample", "balance", "recipe")
ON = OnlyWith("on", ("joined",), because="whose rows it matches")
SEED = OnlyWith(
    "seed",
    ("sample", "uniform", "balance", "recipe", "shuffle"),
    because="which draw at random, as draw(p) does",
)


def pairings(where: str | None) -> Sequence[OnlyWith]:
    """Return which options need which; a seed needs nothing if the condition draws itself."""
    return (ON,) if "draw" in (where or "").lower() else (ON, SEED)


def requested(options: Mapping[str, Any]) -> Request:
    """Return the request that a command's options make; it ignores those of other kinds."""
    from clipdre.selecting.request import Request

    given = {f.name: options[f.name] for f in fields(Request) if f.name in options}
    settings = _parsed(options.get("settings") or [])
    return Request(**given | {"recipe": options.get("recipe") or (), "settings": settings})


def open_query(
    scores: Path, joined: Sequence[Path] | None, time_limit: float, on: JoinKey | None
) -> ScoreQuery:
    """Open a finished score folder with the files of --with."""
    from clipdre.cli.query import MeasurableQuery
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest

    manifest = read_complete_manifest(scores)
    return MeasurableQuery(ScoreFolder(scores), manifest, joined or (), time_limit, on)


def selected(query: ScoreQuery, request: Request) -> list[Selection]:
    """Select by each rule that is asked for; print what was joined, and doubts about counts."""
    from clipdre.selecting.select import select

    for join in query.joins:
        _note_join(join)
    selections = [select(query, rule) for rule in request.rules(query)]
    for selection in selections:
        _hint_at_percent(selection)
    return selections


def _parsed(given: list[str]) -> dict[str, str | int | float]:
    """Return the values of a recipe's options, given as NAME=VALUE."""
    for option in given:
        if "=" not in option:
            raise UsageError(f"invalid `settings` {option}", "use NAME=VALUE")
    parts = (option.partition("=") for option in given)
    return {name: value for name, _, value in parts}


def _note_join(join: Join) -> None:
    """Print how many pairs found a row in a joined table, and which of its columns are renamed."""
    from clipdre.cli.terminal import note

    by = " and ".join(join.by)
    note(f"joined {join} by {by}: {join.matched:,} of {count(join.pool, 'pair')} found a row")
    if join.renamed:
        names = ", ".join(f'{old} to "{new}"' for old, new in join.renamed.items())
        note(f"columns of {join} that the scores have too are renamed: {names}")


def _hint_at_percent(selection: Selection) -> None:
    """Ask about a count that looks like a percentage, because it is small for such a pool."""
    from clipdre.cli.terminal import note

    amounts: dict[str, Amount | None] = {"budget": selection.rule.budget}
    for step in selection.rule.steps:
        amounts |= {name: getattr(step, name) for name in AMOUNTS if getattr(step, name)}
    for name, amount in amounts.items():
        number = amount.value if amount else math.inf
        if isinstance(number, int) and number <= 100 and selection.pool >= LARGE:
            note(
                f"--{name} {number} is a count, of {count(selection.pool, 'pair')}: did you mean "
                f"--{name} {number}%?"
            )
