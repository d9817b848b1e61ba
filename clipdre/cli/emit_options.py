"""Options that `filter` and `emit` share: what to write, and where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.errors import UsageError

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection

STDOUT = "-"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """Parse ``500MB``, ``1G`` or a plain number of bytes."""
    number = text.strip().upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        size = int(float(number.removesuffix(unit)) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise typer.BadParameter(f"invalid size {text!r}: use bytes or a suffix, e.g. 500MB")
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
        help="Tars to take samples from, if they moved or are not the scored ones (then matched by "
        "uid or key): folders, globs, {00..99} patterns.",
        show_default=False,
    ),
]
ShardSize = Annotated[int, typer.Option(min=1, help="Largest number of samples per tar.")]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        help="Largest size of a tar, e.g. 500MB or 1GB.", parser=parse_bytes, metavar="SIZE"
    ),
]
Shuffle = Annotated[
    bool, typer.Option("--shuffle", help="Random order (by --seed) instead of the pool's.")
]
Seed = Annotated[int, typer.Option(help="Random seed for sampling and shuffling.")]
Writers = Annotated[int, typer.Option(min=1, help="Tars written in parallel.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a subset in the output.")]


def emit_config(
    shard_size: int, max_bytes: int | None, shuffle: bool, seed: int, writers: int
) -> EmitConfig:
    """Return the options as settings."""
    return EmitConfig(shard_size, max_bytes, seed if shuffle else None, writers)


def output_or_refuse(output: str | None) -> str:
    """Return the output; `UsageError` if there is none."""
    if output is None:
        raise UsageError("no `output`", "name a folder or file, or - for stdout")
    return output


def write_and_print(
    selection: Selection,
    output: str,
    format: SubsetFormat,
    config: EmitConfig,
    shards: list[str] | None,
    overwrite: bool,
) -> None:
    """Write the selected samples, and print where."""
    from clipdre.cli.terminal import note
    from clipdre.emitting.write import write_subset
    from clipdre.formats.tars.shards import expand_shards

    written = write_subset(
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
