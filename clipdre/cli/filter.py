"""`clipdre filter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from clipdre.cli import emit_options as write
from clipdre.cli import select_options as keep
from clipdre.cli.common_options import Address, Engines, OneCpu, Scores, SliceOption
from clipdre.cli.selections import RULES, open_query, pairings, requested, selected
from clipdre.cli.terminal import given_options
from clipdre.config import TIME_LIMIT, EmitConfig, EngineConfig, EngineName
from clipdre.errors import UsageError
from clipdre.only_with import NotWith, OnlyWith, check
from clipdre.slices import as_slice
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection

EXAMPLE = "Example:  clipdre filter scores --where 'width >= 200' --by log_ratio --top 30% -o kept"
PAIRINGS = (
    NotWith("every", RULES, because="which keeps only some pairs"),
    OnlyWith("json", ("dry_run",)),
    NotWith("engine", ("dry_run",), because="which writes nothing"),
)


def filter_scores(
    context: typer.Context,
    scores: Scores,
    distinct: keep.Distinct = False,
    best: keep.BestOf = None,
    best_by: keep.BestBy = None,
    where: keep.Where = None,
    every: keep.All = False,
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
    slice: SliceOption = None,
    engine: Engines = EngineName.LOCAL,
    address: Address = None,
    cpus_per_worker: OneCpu = None,
) -> None:
    """Keep the best pairs: by a condition, by rank, at random, or by a published recipe.

    Keeps exactly the number asked for; ties are broken by key hash. In expressions,
    quantile(column, q), rank(column) and zscore(column) cover the whole pool, and draw(p) is true
    with probability p, the same for the same pair and --seed anywhere. Copies kept samples byte for
    byte from the source shards. Prints the path it wrote.
    """
    from clipdre.cli.preview import show

    given = given_options(context)
    check(given, (*PAIRINGS, *pairings(where)))
    request = requested(locals())
    _check_rules(given, recipe or [], dry_run)
    place = write.checked_output(output, format, given, needed=not dry_run)
    query = open_query(scores, joined, time_limit, on)
    selections = selected(query, request)
    if dry_run:
        show(selections, as_json=json)
        return
    _note_selection(selections[0])
    shuffle_seed, part = seed if shuffle else None, as_slice(slice)
    machines = EngineConfig(engine, address, cpus_per_worker)
    config = EmitConfig(
        shard_size, max_bytes, shuffle_seed, writers, card, write_caption, part, machines
    )
    write.write_and_print(selections[0], place, format, config, shards, overwrite)


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
