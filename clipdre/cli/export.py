"""`clipdre export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from clipdre.cli import emit_options as write
from clipdre.cli.common_options import Scores, no_stream
from clipdre.config import ExportFormat
from clipdre.words import count

EXAMPLE = "Example:  clipdre export scores -o pool.lance"


def export(
    scores: Scores,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder to write.", metavar="TABLE", callback=no_stream
        ),
    ],
    format: Annotated[
        ExportFormat, typer.Option(help="lance: a Lance table.", metavar="FORMAT")
    ] = ExportFormat.LANCE,
    shards: write.Shards = None,
    overwrite: write.Overwrite = False,
) -> None:
    """Write all rows and columns as a table from which other tools read images in their tars.

    Nothing is copied but the columns: each image is a reference to its bytes in the tar, which must
    stay there. A Lance table needs clipdre's extra lance, the package pylance. Prints the path it
    wrote.
    """
    from clipdre.cli.terminal import note
    from clipdre.emitting.lance_table import write_lance
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.formats.tars.places import expand_shards
    from clipdre.selecting.rules import Rule
    from clipdre.selecting.select import select
    from clipdre.sql.query import ScoreQuery

    assert format is ExportFormat.LANCE
    everything = select(ScoreQuery(ScoreFolder(scores), read_complete_manifest(scores)), Rule())
    tars = expand_shards(shards, sys.stdin) if shards else None
    write_lance(everything, output, shards=tars, overwrite=overwrite)
    note(f"wrote {count(len(everything), 'row')}")
    typer.echo(str(output))
