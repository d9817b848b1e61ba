"""`clipdre filter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.cli.emit_options import (
    MaxBytes,
    Output,
    Overwrite,
    Seed,
    Shards,
    ShardSize,
    Shuffle,
    SubsetFormatOption,
    Writers,
)
from clipdre.config import EmitConfig, SubsetFormat

if TYPE_CHECKING:
    from clipdre.formats.query import ScoreQuery
    from clipdre.rules import Rule
    from clipdre.stages.select import Selection

EXAMPLE = "Example:  clipdre filter scores --where 'width >= 200' --by log_ratio --top 30% -o kept"
TIME_LIMIT = 600.0


def filter_scores(
    scores: Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")],
    output: Output = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition over the columns; applied first.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Column or SQL expression to rank by; with --sample the weight of a row."
        ),
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(help="Keep the largest: 25%, 0.25 (of what --where left), or a count."),
    ] = None,
    bottom: Annotated[str | None, typer.Option(help="Keep the smallest, likewise.")] = None,
    uniform: Annotated[
        bool,
        typer.Option(
            "--uniform", help="Spread what --top asks for evenly over --bins bins of equal width."
        ),
    ] = False,
    bins: Annotated[int, typer.Option(min=1, help="Bins of --uniform.")] = 100,
    sample: Annotated[
        str | None,
        typer.Option(help="Draw so many without replacement: a share or a count."),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(help="SQL expression of which each value keeps --cap rows at most."),
    ] = None,
    cap: Annotated[
        int | None, typer.Option(help="Rows per value of --balance: the best by --by, or any.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Published rule ('clipdre recipes') or a .toml file; several with --dry-run.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Size of a recipe's subset: a share or a count.")
    ] = None,
    set_option: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: an option of the recipe.", show_default=False),
    ] = None,
    joined: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="Parquet file whose columns join by key_hash, shard and key, uid, or key.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    format: SubsetFormatOption = SubsetFormat.TAR,
    shards: Shards = None,
    shard_size: ShardSize = 10_000,
    max_bytes: MaxBytes = None,
    shuffle: Shuffle = False,
    writers: Writers = 2,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds that one pass over the scores may take.")
    ] = TIME_LIMIT,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be kept; write nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The dry run as JSON on stdout.")] = False,
) -> None:
    """Keep the best pairs: by a condition, by rank, by chance, or by a published recipe.

    Exactly the asked number is kept, ties fall by key hash. In expressions, quantile(column, q),
    rank(column) and zscore(column) are over the whole pool. Kept samples are copied byte for byte
    from the source shards. Prints the path it wrote.
    """
    from clipdre.cli.emit_options import write_subset
    from clipdre.cli.preview import show
    from clipdre.formats.manifest import read_complete_manifest
    from clipdre.formats.query import ScoreQuery
    from clipdre.formats.score_folder import ScoreFolder
    from clipdre.rules import AMOUNTS, Rule, Step, parse_amount
    from clipdre.stages.select import select

    recipes = recipe or []
    if output is None and not dry_run:
        raise typer.BadParameter("name a folder or file, or - for stdout", param_hint="--output")
    if len(recipes) > 1 and not dry_run:
        raise typer.BadParameter("several are compared by --dry-run only", param_hint="--recipe")
    steps = {"by": by, "top": top, "bottom": bottom, "sample": sample, "balance": balance}
    if recipes and (uniform or cap or any(steps.values())):
        raise typer.BadParameter("a recipe says itself how to rank", param_hint="--recipe")
    if not recipes and (budget or set_option):
        raise typer.BadParameter("they speak of a --recipe", param_hint="--budget, --set")
    manifest = read_complete_manifest(scores)
    given = {
        name: parse_amount(value, f"--{name}") if name in AMOUNTS else value
        for name, value in steps.items()
        if value is not None
    }
    step = Step(where=where, uniform=uniform, bins=bins, cap=cap, **given)  # type: ignore[arg-type]
    query = ScoreQuery(ScoreFolder(scores), manifest, joined or (), time_limit)
    rules = [_recipe_rule(name, query, set_option or [], budget, where, seed) for name in recipes]
    selections = [select(query, rule) for rule in rules or [Rule((step,), seed=seed)]]
    for selection in selections:
        _say(selection, dry_run)
    if dry_run:
        show(selections, as_json=json)
        return
    config = EmitConfig(shard_size, max_bytes, seed if shuffle else None, writers)
    write_subset(selections[0], str(output), format, config, shards, overwrite)


def _recipe_rule(
    name: str,
    query: ScoreQuery,
    options: list[str],
    budget: str | None,
    where: str | None,
    seed: int,
) -> Rule:
    from clipdre.formats.recipes import read_recipe
    from clipdre.rules import parse_amount

    for option in options:
        if "=" not in option:
            raise typer.BadParameter(f"{option} is not NAME=VALUE", param_hint="--set")
    settings = dict(option.split("=", 1) for option in options)
    size = None if budget is None else parse_amount(budget, "--budget")
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
