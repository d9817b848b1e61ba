"""`clipdre filter`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from clipdre.config import SelectConfig, SubsetFormat

if TYPE_CHECKING:
    from clipdre.stages.emit import Subset

STDOUT = "-"
EXAMPLE = "Example:  clipdre filter scores --where 'width >= 200' --by log_ratio --top 30% -o kept"


def filter_scores(
    scores: Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder or file to write; - is stdout.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition over the score columns; applied first.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Score column or SQL expression to rank by.")
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(help="How many to keep: 25%, 0.25 (of what --where left), or a count."),
    ] = None,
    format: Annotated[
        SubsetFormat,
        typer.Option(
            help="tar: shards with their scores; keys: shard/key lines; uids: "
            "DataComp's subset file (.npy); parquet: rows."
        ),
    ] = SubsetFormat.TAR,
    shards: Annotated[
        list[str] | None,
        typer.Option(
            help="Tars to take samples from by uid or key, where the scored ones are not at hand: "
            "folders, globs, {00..99} patterns.",
            show_default=False,
        ),
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples per emitted tar.")] = 10_000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a subset in the output.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many would be kept; write nothing.")
    ] = False,
) -> None:
    """Keep the best pairs: by a condition, by rank, or both.

    Exactly the asked number is kept, ties fall by key hash. Kept samples are copied byte for byte
    from the source shards, in pool order. Prints the path it wrote.
    """
    from clipdre.cli.terminal import note
    from clipdre.errors import OutputError
    from clipdre.formats.manifest import read_complete_manifest
    from clipdre.formats.query import ScoreQuery
    from clipdre.formats.score_folder import ScoreFolder
    from clipdre.formats.shards import expand_shards
    from clipdre.stages.emit import RelocatedSubset, Subset
    from clipdre.stages.select import parse_top, select

    if output is None and not dry_run:
        raise typer.BadParameter("name a folder or file, or - for stdout", param_hint="--output")
    rule = SelectConfig(where=where, by=by, top=None if top is None else parse_top(top))
    folder = ScoreFolder(scores)
    manifest = read_complete_manifest(scores)
    selection = select(ScoreQuery(folder, manifest), manifest.rows, rule)
    share = len(selection) / max(1, selection.pool)
    verb = "would keep" if dry_run else "keeping"
    note(f"{verb} {len(selection):,} of {selection.pool:,} pairs ({share:.1%})")
    if len(selection) < selection.asked:
        note(f"asked for {selection.asked:,}: no more have a value to rank by")
    if selection.unranked:
        note(f"{selection.unranked:,} rows have no value (null or NaN) of {by} and are never kept")
    if dry_run or output is None:
        return
    if not len(selection):
        raise OutputError("nothing is kept, so nothing is written: loosen --where")
    subset = Subset(folder, manifest, selection)
    if shards:
        subset = RelocatedSubset(subset, expand_shards(shards, sys.stdin))
    _write(subset, output, format, shard_size, overwrite)


def _write(
    subset: Subset, output: str, format: SubsetFormat, shard_size: int, overwrite: bool
) -> None:
    from clipdre.stages.emit import (
        write_keys,
        write_parquet,
        write_tar_folder,
        write_tar_stream,
        write_uids,
    )

    if format is SubsetFormat.TAR and output != STDOUT:
        write_tar_folder(subset, Path(output), shard_size, overwrite=overwrite)
        typer.echo(output)
        return
    writers = {
        SubsetFormat.TAR: write_tar_stream,
        SubsetFormat.KEYS: write_keys,
        SubsetFormat.UIDS: write_uids,
        SubsetFormat.PARQUET: write_parquet,
    }
    with _opened(output, overwrite) as out:
        writers[format](subset, out)
    if output != STDOUT:
        typer.echo(output)


@contextmanager
def _opened(output: str, overwrite: bool) -> Iterator[BinaryIO]:
    from clipdre.errors import OutputError
    from clipdre.formats.storage import committed

    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if Path(output).is_dir() or (Path(output).exists() and not overwrite):
        raise OutputError(f"{output} exists: choose another --output, or give --overwrite")
    with committed(Path(output)) as temporary, open(temporary, "wb") as file:
        yield file
