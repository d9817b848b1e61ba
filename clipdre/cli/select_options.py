"""What `clipdre filter` takes to say which rows are kept: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Where = Annotated[str | None, typer.Option(help="SQL condition over the columns; applied first.")]
By = Annotated[
    str | None,
    typer.Option(help="Column or SQL expression to rank by; with --sample the weight of a row."),
]
Top = Annotated[
    str | None,
    typer.Option(help="Keep the largest: 25%, 0.25 (of what --where left), or a count."),
]
Bottom = Annotated[str | None, typer.Option(help="Keep the smallest, likewise.")]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform", help="Spread what --top asks for evenly over --bins bins of equal width."
    ),
]
Bins = Annotated[int, typer.Option(min=1, help="Bins of --uniform.")]
Sample = Annotated[
    str | None, typer.Option(help="Draw so many without replacement: a share or a count.")
]
Balance = Annotated[
    str | None, typer.Option(help="SQL expression of which each value keeps --cap rows at most.")
]
Cap = Annotated[
    int | None, typer.Option(help="Rows per value of --balance: the best by --by, or any.")
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        help="Published rule ('clipdre recipes') or a .toml file; several with --dry-run.",
        show_default=False,
    ),
]
Budget = Annotated[str | None, typer.Option(help="Size of a recipe's subset: a share or a count.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE: an option of the recipe.", show_default=False),
]
Joined = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="Parquet file whose columns join by key_hash, shard and key, uid, or key.",
        show_default=False,
    ),
]
TimeLimit = Annotated[
    float, typer.Option(min=0, help="Seconds that one pass over the scores may take.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be kept; write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="The dry run as JSON on stdout.")]
