"""Options that `filter` and `emit` share, and the writing that they do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.config import EmitConfig, SubsetFormat

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection

STDOUT = "-"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """``500MB``, ``1G`` or a plain number of bytes."""
    number = text.strip().upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        size = int(float(number.removesuffix(unit)) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text} is no size: give bytes, or 500MB, 1GB")
    return size


Scores = Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="Folder or file to write, or a URL; - is stdout."),
]
Format = Annotated[
    SubsetFormat,
    typer.Option(
        help="tar: shards with their scores; keys: shard/key lines; uids: DataComp's subset file "
        "(.npy); parquet, arrow, csv, jsonl: rows."
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        help="Tars to take samples from, where they moved or were not the scored ones (then by uid "
        "or key): folders, globs, {00..99} patterns.",
        show_default=False,
    ),
]
ShardSize = Annotated[int, typer.Option(min=1, help="Samples per emitted tar, at most.")]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        help="Bytes per emitted tar, at most: 500MB, 1GB.", parser=parse_bytes, metavar="SIZE"
    ),
]
Shuffle = Annotated[
    bool, typer.Option("--shuffle", help="Random order (by --seed) instead of the pool's.")
]
Seed = Annotated[int, typer.Option(help="Another seed draws and shuffles otherwise.")]
Writers = Annotated[int, typer.Option(min=1, help="Tars written at once.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a subset in the output.")]


def write_subset(
    selection: Selection,
    output: str,
    format: SubsetFormat,
    config: EmitConfig,
    shards: list[str] | None,
    overwrite: bool,
) -> None:
    """Write what is kept, and print where."""
    from clipdre.cli.terminal import note
    from clipdre.emitting import write
    from clipdre.formats.tars.shards import expand_shards

    written = write.write_subset(
        selection,
        output,
        format=format,
        config=config,
        shards=expand_shards(shards, sys.stdin) if shards else None,
        overwrite=overwrite,
    )
    if written.summary is not None and written.renamed:
        note(
            f"{written.renamed:,} keys that several samples share were made unique: "
            f"see {output}/renamed.parquet"
        )
    if output != STDOUT:
        typer.echo(output)
