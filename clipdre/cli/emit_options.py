"""Options that `filter` and `emit` share, and the writing that they do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

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
    from clipdre.emitting.emit import write_tar_folder
    from clipdre.emitting.export import WRITERS
    from clipdre.emitting.relocate import relocated
    from clipdre.emitting.subset import Subset
    from clipdre.errors import OutputError
    from clipdre.formats.tars.shards import expand_shards

    if not len(selection):
        raise OutputError("nothing is kept, so nothing is written: loosen --where")
    moved = expand_shards(shards, sys.stdin) if shards else None
    subset = relocated(selection, moved) if moved else Subset(selection)
    if format is SubsetFormat.TAR and output != STDOUT:
        _tell(write_tar_folder(subset, output, config, overwrite=overwrite), output)
    else:
        with _opened(output, overwrite) as out:
            WRITERS[format](subset, out)
    if output != STDOUT:
        typer.echo(output)


def _tell(summary: dict[str, object], output: str) -> None:
    from clipdre.cli.terminal import note

    if summary["renamed"]:
        note(
            f"{summary['renamed']:,} keys that several samples had were made unique: "
            f"{output}/renamed.parquet says how"
        )


@contextmanager
def _opened(output: str, overwrite: bool) -> Iterator[BinaryIO]:
    from clipdre.errors import OutputError
    from clipdre.formats.files.outputs import output_folder
    from clipdre.formats.files.remote import is_remote
    from clipdre.formats.files.storage import committed

    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if is_remote(output):
        place, _, name = output.rpartition("/")
        folder = output_folder(place)
        if name in folder.names() and not overwrite:
            raise OutputError(f"{folder.name}/{name} exists: give another --output, or --overwrite")
        with folder.committed(name) as temporary, open(temporary, "xb") as file:
            yield file
        return
    if Path(output).is_dir() or (Path(output).exists() and not overwrite):
        raise OutputError(f"{output} exists: choose another --output, or give --overwrite")
    with committed(Path(output)) as temporary, open(temporary, "xb") as file:
        yield file
