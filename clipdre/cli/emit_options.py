"""Options that `filter` and `emit` share: what to write, and where."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdre.config import EmitConfig, SubsetFormat
from clipdre.errors import UsageError
from clipdre.only_with import NotWith, OnlyWith, Pairing, check

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection

PANEL = "Output"
STDOUT = "-"
# What the command line can see to be unused, even if it equals the default.
PAIRINGS: tuple[Pairing, ...] = (
    OnlyWith("writers", ("format",), SubsetFormat.TAR.value),
    NotWith("writers", ("output",), STDOUT, because="a single tar"),
    NotWith("overwrite", ("output",), STDOUT),
)
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


Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder or file to write, or a URL; - is stdout.",
        rich_help_panel=PANEL,
    ),
]
Format = Annotated[
    SubsetFormat,
    typer.Option(
        help="tar: shards with their scores; keys: shard/key lines; uids: DataComp's subset file "
        "(.npy); parquet, arrow, csv, jsonl: rows.",
        metavar="FORMAT",
        rich_help_panel=PANEL,
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        help="Tars to take samples from, if they moved or are not the scored ones (then matched by "
        "uid or key): folders, globs, {00..99} patterns.",
        metavar="SHARDS",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ShardSize = Annotated[
    int,
    typer.Option(
        min=1, help="Largest number of samples per tar.", metavar="N", rich_help_panel=PANEL
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        help="Largest size of a tar, e.g. 500MB or 1GB.",
        parser=parse_bytes,
        metavar="SIZE",
        rich_help_panel=PANEL,
    ),
]
Shuffle = Annotated[
    bool,
    typer.Option(
        "--shuffle",
        help="Random order (by --seed) instead of the pool's.",
        rich_help_panel=PANEL,
    ),
]
Seed = Annotated[
    int, typer.Option(help="Random seed for sampling and shuffling.", rich_help_panel=PANEL)
]
Writers = Annotated[
    int,
    typer.Option(min=1, help="Tars written in parallel.", metavar="N", rich_help_panel=PANEL),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an existing output.", rich_help_panel=PANEL),
]


def emit_config(
    shard_size: int, max_bytes: int | None, shuffle: bool, seed: int, writers: int
) -> EmitConfig:
    """Return the options as settings."""
    return EmitConfig(shard_size, max_bytes, seed if shuffle else None, writers)


def checked_output(
    output: str | None, format: SubsetFormat, given: Mapping[str, Any], *, needed: bool = True
) -> str:
    """Return the output; `UsageError` if it is missing or leaves a `given` option unused."""
    from clipdre.emitting.write import PAIRINGS as SETTINGS

    if output is None and needed:
        raise UsageError("no `output`", "name a folder or file, or - for stdout")
    options = {**given, "shuffle_seed": given.get("shuffle"), "output": output, "format": format}
    check(options, (*SETTINGS, *PAIRINGS))
    return output or ""


def write_and_print(
    selection: Selection,
    output: str,
    format: SubsetFormat,
    config: EmitConfig,
    shards: list[str] | None,
    overwrite: bool,
) -> None:
    """Write the selected samples, and print where."""
    from clipdre.cli.terminal import count, note
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
        note(f"made {count(written.renamed, 'shared key')} unique: see {output}/renamed.parquet")
    if output != STDOUT:
        typer.echo(output)
