"""`clipdre compare`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdre.cli import emit_options as write
from clipdre.cli import select_options as keep
from clipdre.cli.common_options import Json, Scores
from clipdre.cli.numbers import Count
from clipdre.cli.selections import open_query, pairings, requested, selected
from clipdre.cli.terminal import echo_json, given_options, note, table
from clipdre.config import TIME_LIMIT
from clipdre.only_with import check

if TYPE_CHECKING:
    from clipdre.looking.comparison import Contrast, Described

EXAMPLE = "Example:  clipdre compare scores clipscore log-ratio-then-kl --budget 20%"
POOL = "the pool"
# Columns of the printed correlations, of which there is room for a few.
SHOWN = 6


def compare(
    context: typer.Context,
    scores: Scores,
    recipe: Annotated[
        list[str],
        typer.Argument(
            help="Two or more published rules ('clipdre recipes') or .toml files.",
            metavar="RECIPE",
            show_default=False,
        ),
    ],
    distinct: keep.Distinct = False,
    where: keep.Where = None,
    budget: keep.Budget = None,
    settings: keep.Settings = None,
    truth: Annotated[
        str | None,
        typer.Option(
            help="SQL condition that good pairs fulfil, over columns of --with too, such as "
            "\"kind = 'clean'\": show the precision and recall of each subset.",
            metavar="SQL",
            rich_help_panel=keep.PREVIEW,
        ),
    ] = None,
    sampled: Annotated[
        int,
        typer.Option(
            parser=Count(2),
            help="Largest number of pairs for correlations and diversities.",
            metavar="N",
            rich_help_panel=keep.PREVIEW,
        ),
    ] = 20_000,
    seed: write.Seed = 0,
    joined: keep.Joined = None,
    on: keep.On = None,
    time_limit: keep.TimeLimit = TIME_LIMIT,
    json: Json = False,
) -> None:
    """Compare what recipes keep: sizes, overlaps, means, diversity, precision and recall.

    Prints the rank correlations of scores over the pool as well. The effective rank is the number
    of directions in which images or captions vary, and the participation ratio the same with less
    weight on rare ones. Writes nothing.
    """
    from clipdre.looking.comparison import compare as compared

    check(given_options(context), pairings(where))
    request = requested(locals())
    query = open_query(scores, joined, time_limit, on)
    found = compared(selected(query, request), truth=truth, sampled=sampled)
    if json:
        echo_json(_machine(found))
    else:
        _print(found)


def _machine(found: Contrast) -> dict[str, Any]:
    from clipdre.cli.preview import overlaps

    return {
        "pool": _described(found.pool),
        "subsets": {name: _described(own) for name, own in found.kept.items()},
        **overlaps(found),
        "columns": found.columns,
        "correlations": found.correlations.tolist(),
        "correlations_from": found.sampled,
        "diversity_from": found.diverse,
        "problem": found.problem or None,
    }


def _described(found: Described) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "precision": found.precision,
        "recall": found.recall,
        "diversity": {modality.value: own._asdict() for modality, own in found.diversity.items()},
        "means": found.means,
    }


def _print(found: Contrast) -> None:
    from clipdre.cli.preview import print_overlaps

    sets = {POOL: found.pool, **found.kept}
    _print_sizes(sets)
    print_overlaps({name: own.rows for name, own in found.kept.items()}, found)
    table(
        "means",
        ("score", *sets),
        [(name, *(_shown(own.means[name]) for own in sets.values())) for name in found.columns],
        stdout=True,
    )
    shown = found.columns[:SHOWN]
    table(
        f"rank correlations (Spearman), {found.sampled:,} pairs of the pool",
        ("score", *shown),
        [
            (name, *("-" if math.isnan(value) else f"{value:.2f}" for value in row[: len(shown)]))
            for name, row in zip(found.columns, found.correlations, strict=True)
        ],
        stdout=True,
    )
    _print_diversity(found, sets)


def _print_sizes(sets: dict[str, Described]) -> None:
    pool = sets[POOL]
    has_truth = pool.precision is not None
    table(
        "what is kept",
        ("recipe", "rows", "share", *(("precision", "recall") if has_truth else ())),
        [
            (
                name,
                f"{own.rows:,}",
                f"{own.rows / max(1, pool.rows):.1%}",
                *((_shown(own.precision), _shown(own.recall)) if has_truth else ()),
            )
            for name, own in sets.items()
        ],
        stdout=True,
    )


def _print_diversity(found: Contrast, sets: dict[str, Described]) -> None:
    if found.problem:
        note(f"no diversity: {found.problem}", stdout=True)
        return
    table(
        f"diversity: effective rank (participation ratio), {found.diverse:,} pairs of each",
        ("recipe", "images", "texts"),
        [
            (
                name,
                *(f"{rank:.1f} ({ratio:.1f})" for rank, ratio in own.diversity.values()),
            )
            for name, own in sets.items()
        ],
        stdout=True,
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
