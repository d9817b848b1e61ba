"""`clipdre filter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from clipdre.cli import emit_options as write
from clipdre.cli import select_options as keep
from clipdre.config import TIME_LIMIT, EmitConfig, SubsetFormat
from clipdre.selecting.rules import AMOUNTS, Rule, Step, parse_amount

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection
    from clipdre.sql.query import ScoreQuery

EXAMPLE = "Example:  clipdre filter scores --where 'width >= 200' --by log_ratio --top 30% -o kept"


def filter_scores(
    scores: write.Scores,
    output: write.Output = None,
    where: keep.Where = None,
    by: keep.By = None,
    top: keep.Top = None,
    bottom: keep.Bottom = None,
    uniform: keep.Uniform = False,
    bins: keep.Bins = Step.bins,
    sample: keep.Sample = None,
    balance: keep.Balance = None,
    cap: keep.Cap = None,
    recipe: keep.Recipes = None,
    budget: keep.Budget = None,
    set_option: keep.Settings = None,
    joined: keep.Joined = None,
    seed: write.Seed = 0,
    format: write.Format = SubsetFormat.TAR,
    shards: write.Shards = None,
    shard_size: write.ShardSize = EmitConfig.shard_size,
    max_bytes: write.MaxBytes = None,
    shuffle: write.Shuffle = False,
    writers: write.Writers = EmitConfig.writers,
    time_limit: keep.TimeLimit = TIME_LIMIT,
    overwrite: write.Overwrite = False,
    dry_run: keep.DryRun = False,
    json: keep.Json = False,
) -> None:
    """Keep the best pairs: by a condition, by rank, by chance, or by a published recipe.

    Exactly the asked number is kept, ties fall by key hash. In expressions, quantile(column, q),
    rank(column) and zscore(column) are over the whole pool. Kept samples are copied byte for byte
    from the source shards. Prints the path it wrote.
    """
    from clipdre.cli.preview import show
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.selecting.select import select
    from clipdre.sql.query import ScoreQuery

    recipes = recipe or []
    if output is None and not dry_run:
        raise typer.BadParameter("name a folder or file, or - for stdout", param_hint="--output")
    if len(recipes) > 1 and not dry_run:
        raise typer.BadParameter("several are compared by --dry-run only", param_hint="--recipe")
    ranked = {"by": by, "top": top, "bottom": bottom, "sample": sample, "balance": balance}
    if recipes and (uniform or cap or any(ranked.values())):
        raise typer.BadParameter("a recipe says itself how to rank", param_hint="--recipe")
    if not recipes and (budget or set_option):
        raise typer.BadParameter("they speak of a --recipe", param_hint="--budget, --set")
    manifest = read_complete_manifest(scores)
    step = _step(ranked, where=where, uniform=uniform, bins=bins, cap=cap)
    query = ScoreQuery(ScoreFolder(scores), manifest, joined or (), time_limit)
    rules = [_recipe_rule(name, query, set_option or [], budget, where, seed) for name in recipes]
    selections = [select(query, rule) for rule in rules or [Rule((step,), seed=seed)]]
    for selection in selections:
        _say(selection, dry_run)
    if dry_run:
        show(selections, as_json=json)
        return
    config = EmitConfig(shard_size, max_bytes, seed if shuffle else None, writers)
    write.write_subset(selections[0], str(output), format, config, shards, overwrite)


def _step(ranked: dict[str, str | None], **others: Any) -> Step:
    given: dict[str, Any] = {
        name: parse_amount(value, name) if name in AMOUNTS else value
        for name, value in ranked.items()
        if value is not None
    }
    return Step(**given, **others)


def _recipe_rule(
    name: str,
    query: ScoreQuery,
    options: list[str],
    budget: str | None,
    where: str | None,
    seed: int,
) -> Rule:
    from clipdre.selecting.recipes import read_recipe

    for option in options:
        if "=" not in option:
            raise typer.BadParameter(f"{option} is not NAME=VALUE", param_hint="--set")
    settings = dict(option.split("=", 1) for option in options)
    size = None if budget is None else parse_amount(budget, "budget")
    return read_recipe(name).rule(query, settings, size, where, seed)


def _say(selection: Selection, dry_run: bool) -> None:
    """One line on what is kept, and one on each thing that a curator would not expect."""
    from clipdre.cli.terminal import note

    share = len(selection) / max(1, selection.pool)
    verb = "would keep" if dry_run else "keeping"
    name = f"{selection.rule.name}: " if selection.rule.name else ""
    note(f"{name}{verb} {len(selection):,} of {selection.pool:,} pairs ({share:.1%})")
    for counted in selection.steps:
        step = counted.step
        if counted.unranked:
            what = " or ".join(text for text in (step.by, step.balance) if text)
            note(
                f"{counted.unranked:,} rows have no value (null or NaN) of {what} "
                "and are never kept"
            )
        if counted.kept < counted.asked:
            note(f"asked for {counted.asked:,}: no more have a value to rank by")
