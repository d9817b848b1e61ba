"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def no_stream(folder: Path | None) -> Path | None:
    """Return a folder to write; refuse ``-``, which stands for stdout elsewhere."""
    if str(folder) == "-":
        raise typer.BadParameter("this command writes a folder, not a stream: name one")
    return folder


Scores = Annotated[
    Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.", metavar="SCORES")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
