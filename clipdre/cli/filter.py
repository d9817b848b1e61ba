"""`clipdre filter`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from clipdre.cli import emit_options as write
from clipdre.cli import select_options as keep
from clipdre.cli.common_options import Scores
from clipdre.cli.terminal import given_options
from clipdre.config import TIME_LIMIT, EmitConfig
from clipdre.errors import UsageError
from clipdre.only_with import NotWith, OnlyWith, check
from clipdre.selecting.rules import AMOUNTS, Amount
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.selecting.request import Request
    from clipdre.selecting.select import Selection
    from clipdre.sql.joined import Join
    from clipdre.sql.query import ScoreQuery

EXAMPLE = "Example:  clipdre filter scores --where 'width >= 200' --by log_ratio --top 30% -o kept"
# Pairs of a pool from which on few people want 100 or fewer.
LARGE = 10_000
RULES = ("distinct", "best", "where", "by", "top", "bottom", "sample", "balance", "recipe")
PAIRINGS = (
    NotWith("every", RULES, because="which keeps only some pairs"),
    OnlyWith("json", ("dry_run",)),
    OnlyWith("on", ("joined",), because="whose rows it matches"),
)
SEED = OnlyWith(
    "seed",
    ("sample", "uniform", "balance", "recipe", "shuffle"),
    because="which draw at random, as draw(p) does",
)


def filter_scores(
    context: typer.Context,
    scores: Scores,
    distinct: keep.Distinct = False,
    best: keep.BestOf = None,
    best_by: keep.BestBy = None,
    where: keep.Where = None,
    every: keep.All = False,  # noqa: ARG001 (looked up among the given options)
    by: keep.By = None,
    by_log: keep.ByLog = None,
    top: keep.Top = None,
    bottom: keep.Bottom = None,
    uniform: keep.Uniform = False,
    bins: keep.Bins = None,
    sample: keep.Sample = None,
    penalty: keep.Penalty = None,
    per_round: keep.PerRound = None,
    balance: keep.Balance = None,
    cap: keep.Cap = None,
    recipe: keep.Recipes = None,
    budget: keep.Budget = None,
    settings: keep.Settings = None,
    joined: keep.Joined = None,
    on: keep.On = None,
    time_limit: keep.TimeLimit = TIME_LIMIT,
    dry_run: keep.DryRun = False,
    json: keep.Json = False,
    output: write.Output = None,
    format: write.Format = None,
    shards: write.Shards = None,
    shard_size: write.ShardSize = EmitConfig.shard_size,
    max_bytes: write.MaxBytes = None,
    shuffle: write.Shuffle = False,
    seed: write.Seed = 0,
    writers: write.Writers = EmitConfig.writers,
    card: write.Card = False,
    write_caption: write.WriteCaption = False,
    overwrite: write.Overwrite = False,
) -> None:
    """Keep the best pairs: by a condition, by rank, at random, or by a published recipe.

    Keeps exactly the number asked for; ties are broken by key hash. In expressions,
    quantile(column, q), rank(column) and zscore(column) cover the whole pool, and draw(p) is true
    with probability p, the same for the same pair and --seed anywhere. Copies kept samples byte for
    byte from the source shards. Prints the path it wrote.
    """
    from clipdre.cli.preview import show
    from clipdre.cli.query import MeasurableQuery
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.selecting.request import Request

    given = given_options(context)
    check(given, PAIRINGS if "draw" in (where or "").lower() else (*PAIRINGS, SEED))
    request = Request(
        distinct=distinct,
        best=best,
        best_by=best_by,
        where=where,
        by=by,
        by_log=by_log,
        top=top,
        bottom=bottom,
        uniform=uniform,
        bins=bins,
        sample=sample,
        penalty=penalty,
        per_round=per_round,
        balance=balance,
        cap=cap,
        recipe=recipe or (),
        budget=budget,
        settings=parse_settings(settings or []),
        seed=seed,
    )
    _check_rules(given, recipe or [], dry_run)
    place = write.checked_output(output, format, given, needed=not dry_run)
    manifest = read_complete_manifest(scores)
    query = MeasurableQuery(ScoreFolder(scores), manifest, joined or (), time_limit, on)
    selections = selected(query, request)
    if dry_run:
        show(selections, as_json=json)
        return
    _note_selection(selections[0])
    shuffle_seed = seed if shuffle else None
    config = EmitConfig(shard_size, max_bytes, shuffle_seed, writers, card, write_caption)
    write.write_and_print(selections[0], place, format, config, shards, overwrite)


def selected(query: ScoreQuery, request: Request) -> list[Selection]:
    """Select by each rule that is asked for; print what was joined, and doubts about counts."""
    from clipdre.selecting.select import select

    for join in query.joins:
        _note_join(join)
    selections = [select(query, rule) for rule in request.rules(query)]
    for selection in selections:
        _hint_at_percent(selection)
    return selections


def _check_rules(given: Mapping[str, object], recipes: Sequence[str], dry_run: bool) -> None:
    """Refuse no rule, and recipes that cannot be used together."""
    if not any(name in given for name in ("every", *RULES)):
        raise UsageError(
            "nothing says which pairs to keep",
            "add `where`, `by` with `top`, `sample` or `recipe`, or `every` to keep all",
        )
    if len(set(recipes)) < len(recipes):
        raise UsageError("a `recipe` is given twice", "drop one of them")
    if len(recipes) > 1 and not dry_run:
        raise UsageError("several `recipe` options can only be compared", "add `dry_run`")


def parse_settings(given: list[str]) -> dict[str, str | int | float]:
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


def _note_selection(selection: Selection) -> None:
    """Print how many pairs are kept, and anything a curator would not expect."""
    from clipdre.cli.terminal import note

    share = len(selection) / max(1, selection.pool)
    name = f"{selection.rule.name}: " if selection.rule.name else ""
    note(f"{name}keeping {len(selection):,} of {count(selection.pool, 'pair')} ({share:.1%})")
    for counted in selection.steps:
        step = counted.step
        if len(selection.steps) > 1:
            cut = f" ({counted.cut})" if counted.cut else ""
            note(f"    {step}: {counted.kept:,} of {counted.before:,}{cut}")
        elif counted.cut:
            note(f"cut: {counted.cut}")
        if counted.unranked:
            cap = step.cap if isinstance(step.cap, str) else None
            what = " or ".join(text for text in (step.weighed, step.balance, cap) if text)
            note(f"not kept: {count(counted.unranked, 'row')} without a value of {what}")
        if step.penalty is not None:
            note(f"drawn {counted.asked:,} times: column times says how often each pair was")
        elif counted.kept < counted.asked:
            note(f"asked for {counted.asked:,}, but only {counted.kept:,} are left to choose from")
