"""Options of `clipdre look`: one type per option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdre.cli.numbers import Count

PANEL = "Page"

Kept = Annotated[
    Path | None,
    typer.Argument(
        help="Subset that 'clipdre filter' wrote, or a list of samples as for 'clipdre emit'.",
        metavar="KEPT",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="HTML file to write.", rich_help_panel=PANEL),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Column to show right after the main scores.",
        metavar="NAME",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Thumbnails = Annotated[
    int,
    typer.Option(
        parser=Count(0),
        help="Largest number of pairs shown with their image.",
        metavar="N",
        rich_help_panel=PANEL,
    ),
]
BlurBy = Annotated[
    str | None,
    typer.Option(
        help="SQL condition; images of pairs that fulfil it are blurred, e.g. 'punsafe > 0.5'.",
        metavar="SQL",
        rich_help_panel=PANEL,
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        help="Tars to take images from, if they have moved.",
        metavar="SHARDS",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace a file that is not such a page.", rich_help_panel=PANEL
    ),
]
