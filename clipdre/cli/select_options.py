"""Options of `clipdre filter` that select rows: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdre.cli.numbers import Count
from clipdre.config import Best, JoinKey
from clipdre.core.scores import MAIN_COLUMNS

RANK, RECIPE, PREVIEW = "Selection", "Recipes", "Preview"

Where = Annotated[
    str | None,
    typer.Option(
        help="SQL condition over the columns; applied first.", metavar="SQL", rich_help_panel=RANK
    ),
]
All = Annotated[
    bool,
    typer.Option("--all", help="Keep every pair.", rich_help_panel=RANK),
]
Distinct = Annotated[
    bool,
    typer.Option(
        "--distinct",
        help="Keep only the best pair, by log_ratio, of each group of alike pairs.",
        rich_help_panel=RANK,
    ),
]
BestOf = Annotated[
    Best | None,
    typer.Option(
        "--best",
        help="caption: keep only the best row of each sample, in scores of several captions per "
        "image.",
        metavar="OF",
        rich_help_panel=RANK,
    ),
]
BestBy = Annotated[
    str | None,
    typer.Option(
        help="Column or SQL expression of --best; the largest is kept.  (default: log_ratio)",
        metavar="SQL",
        rich_help_panel=RANK,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        help="Column or SQL expression to rank by; with --sample, the weight of a row. "
        f"Columns: {', '.join(MAIN_COLUMNS)}, ...; 'clipdre info SCORES' lists all.",
        metavar="SQL",
        rich_help_panel=RANK,
    ),
]
ByLog = Annotated[
    str | None,
    typer.Option(
        help="Column or SQL expression of the log of a row's weight, for --sample.",
        metavar="SQL",
        rich_help_panel=RANK,
    ),
]
Top = Annotated[
    str | None,
    typer.Option(
        help="Keep the largest: a share of what --where leaves (25% or 0.25), or a count "
        "(2000 or 10k).",
        metavar="AMOUNT",
        rich_help_panel=RANK,
    ),
]
Bottom = Annotated[
    str | None,
    typer.Option(
        help="Keep the smallest: a share or a count.", metavar="AMOUNT", rich_help_panel=RANK
    ),
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform",
        help="Spread the amount of --top evenly over --bins bins of equal width.",
        rich_help_panel=RANK,
    ),
]
Bins = Annotated[
    int | None,
    typer.Option(
        parser=Count(),
        help="Number of bins of --uniform.  (default: 100)",
        metavar="N",
        rich_help_panel=RANK,
    ),
]
Sample = Annotated[
    str | None,
    typer.Option(
        help="Draw a share or a count at random, without replacement.",
        metavar="AMOUNT",
        rich_help_panel=RANK,
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(
        help="Draw --sample in rounds; --by-log falls by this much for each time a row was drawn. "
        "Column times of the subset says how often that was.",
        metavar="NUMBER",
        rich_help_panel=RANK,
    ),
]
PerRound = Annotated[
    int | None,
    typer.Option(
        parser=Count(),
        help="Draws of a round of --penalty.  (default: 100000)",
        metavar="N",
        rich_help_panel=RANK,
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(
        help="SQL expression; each of its values keeps at most --cap rows.",
        metavar="SQL",
        rich_help_panel=RANK,
    ),
]
Cap = Annotated[
    str | None,
    typer.Option(
        help="Rows per value of --balance: the best by --by, or random ones. A count, or a column "
        "or SQL expression of one.",
        metavar="N",
        rich_help_panel=RANK,
    ),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        help="Published rule ('clipdre recipes') or a .toml file; several with --dry-run.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Size of a recipe's subset: a share or a count.",
        metavar="AMOUNT",
        rich_help_panel=RECIPE,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Value for an option of the recipe, as NAME=VALUE.",
        metavar="NAME=VALUE",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
Joined = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="Parquet or CSV whose columns to add: a file, a folder with its "
        "subfolders, or a quoted glob, such as img2dataset's sidecars. Files that have the same "
        "columns are one table.",
        metavar="TABLES",
        show_default=False,
        rich_help_panel=RANK,
    ),
]
On = Annotated[
    JoinKey | None,
    typer.Option(
        help="Names that match rows of --with: key, uid, shard,key or key_hash. The shard is a "
        "column, or the file's own name.  (default: what they have of key_hash; shard and key; "
        "uid; key)",
        metavar="NAMES",
        rich_help_panel=RANK,
    ),
]
TimeLimit = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds that one pass over the scores may take.",
        metavar="SECONDS",
        rich_help_panel=RANK,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show what would be kept; write nothing.", rich_help_panel=PREVIEW
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the dry run as JSON on stdout.", rich_help_panel=PREVIEW),
]
