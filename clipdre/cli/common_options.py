"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Scores = Annotated[
    Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.", metavar="SCORES")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
