"""Options of `clipdre filter` that select rows: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdre.core.scores import MAIN_COLUMNS

RANK, RECIPE = "Selection", "Recipes"

Where = Annotated[
    str | None,
    typer.Option(help="SQL condition over the columns; applied first.", rich_help_panel=RANK),
]
By = Annotated[
    str | None,
    typer.Option(
        help="Column or SQL expression to rank by; with --sample, the weight of a row. "
        f"Columns: {', '.join(MAIN_COLUMNS)}, ...; 'clipdre info SCORES' lists all.",
        rich_help_panel=RANK,
    ),
]
Top = Annotated[
    str | None,
    typer.Option(
        help="Keep the largest: 25%, 0.25 (of what --where left), or a count.",
        rich_help_panel=RANK,
    ),
]
Bottom = Annotated[
    str | None, typer.Option(help="Keep the smallest: a share or a count.", rich_help_panel=RANK)
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform",
        help="Spread the number that --top asks for evenly over --bins bins of equal width.",
        rich_help_panel=RANK,
    ),
]
Bins = Annotated[
    int | None,
    typer.Option(min=1, help="Number of bins of --uniform.  (default: 100)", rich_help_panel=RANK),
]
Sample = Annotated[
    str | None,
    typer.Option(
        help="Draw a share or a count at random, without replacement.", rich_help_panel=RANK
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(
        help="SQL expression; each of its values keeps at most --cap rows.", rich_help_panel=RANK
    ),
]
Cap = Annotated[
    int | None,
    typer.Option(
        help="Rows per value of --balance: the best by --by, or random ones.", rich_help_panel=RANK
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        help="Published rule ('clipdre recipes') or a .toml file; several with --dry-run.",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="Size of a recipe's subset: a share or a count.", rich_help_panel=RECIPE),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="NAME=VALUE: an option of the recipe.",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
Joined = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="Parquet file whose columns are joined by key_hash, shard and key, uid, or key.",
        show_default=False,
        rich_help_panel=RANK,
    ),
]
TimeLimit = Annotated[
    float, typer.Option(min=0, help="Seconds that one pass over the scores may take.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be kept; write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the dry run as JSON on stdout.")]
