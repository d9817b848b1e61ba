"""Options that `filter` and `emit` share: what to write, and where."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from clipdre.cli.numbers import Count, parse_bytes
from clipdre.config import EmitConfig, SubsetFormat
from clipdre.errors import UsageError
from clipdre.only_with import WITH_RAY, NotWith, OnlyWith, Pairing, check, without_ray
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.selecting.select import Selection

PANEL = "Output"
STDOUT = "-"
# What the command line can see to be unused, even if it equals the default.
PAIRINGS: tuple[Pairing, ...] = (
    OnlyWith("writers", ("format",), SubsetFormat.TAR.value),
    NotWith("overwrite", ("output",), STDOUT),
    NotWith("slice", ("overwrite",), because="which drops what other slices wrote"),
    *WITH_RAY,
    without_ray("writers"),
)

Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder or file to write, or a URL; - is stdout, NAME.tar a single tar.",
        rich_help_panel=PANEL,
    ),
]
Format = Annotated[
    SubsetFormat | None,
    typer.Option(
        help="tar: shards with their scores; index: byte spans in the scored tars, with scores "
        "(Parquet); keys: shard/key lines (.txt); uids: DataComp's subset "
        "file (.npy); parquet, arrow, csv, jsonl: rows.  (default: by the suffix of --output, else "
        "tar)",
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
        parser=Count(),
        help="Largest number of samples per tar, e.g. 10k.",
        metavar="N",
        rich_help_panel=PANEL,
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
Card = Annotated[
    bool,
    typer.Option(
        "--card",
        help="Write a README.md with which the Hugging Face Hub loads the tars.",
        rich_help_panel=PANEL,
    ),
]
WriteCaption = Annotated[
    bool,
    typer.Option(
        "--write-caption",
        help="Put the caption of each row into its sample, as the txt member.",
        rich_help_panel=PANEL,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace an existing output, once the new one is complete.",
        rich_help_panel=PANEL,
    ),
]


def checked_output(
    output: str | None,
    format: SubsetFormat | None,
    given: Mapping[str, Any],
    *,
    needed: bool = True,
) -> str:
    """Return the output; `UsageError` if it is missing or leaves a `given` option unused."""
    from clipdre.emitting.write import BINARY, format_of, is_one_tar, pairings

    if output is None and needed:
        raise UsageError("no `output`", "name a folder or file, or - for stdout")
    place = output or ""
    kind = format_of(place, format)
    options = {**given, "shuffle_seed": given.get("shuffle"), "output": output, "format": kind}
    check(options, (*pairings(place, kind), *PAIRINGS))
    if is_one_tar(place, kind):
        check(options, [NotWith("writers", ("output",), place, because="a single tar")])
    if place == STDOUT and kind in BINARY and needed and sys.stdout.isatty():
        raise UsageError(
            f"`format` {kind} is binary, which a terminal cannot show",
            "redirect stdout, or name a file as `output`",
        )
    return place


def write_and_print(
    selection: Selection,
    output: str,
    format: SubsetFormat | None,
    config: EmitConfig,
    shards: list[str] | None,
    overwrite: bool,
) -> None:
    """Write the selected samples, and print where."""
    from clipdre.cli.terminal import TerminalWriter, note
    from clipdre.emitting.write import write_subset
    from clipdre.formats.tars.places import expand_shards

    on_terminal = output == STDOUT and sys.stdout.isatty()
    written = write_subset(
        selection,
        cast("BinaryIO", TerminalWriter()) if on_terminal else output,
        format=format,
        config=config,
        shards=expand_shards(shards, sys.stdin) if shards else None,
        overwrite=overwrite,
    )
    if config.slice is not None:
        note(f"slice {config.slice} is written: {count(written.kept, 'sample')}")
        note("when all slices are: the same command without --slice writes what is missing")
        return
    suffixes = (written.summary or {}).get("image_suffixes", [])
    if len(suffixes) > 1:
        note(
            f"images are {', '.join(suffixes)} files: open_clip and webdataset read them all, but "
            "Hugging Face datasets only those of the suffix that comes first"
        )
    if written.summary is not None and written.renamed:
        note(f"made {count(written.renamed, 'shared key')} unique: see {output}/renamed.parquet")
    if output != STDOUT:
        typer.echo(output)
