"""`clipdre emit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.cli import emit_options as write
from clipdre.config import EmitConfig, SubsetFormat
from clipdre.errors import SelectionError

if TYPE_CHECKING:
    from clipdre.formats.name_lists import NameList

EXAMPLE = "Example:  grep -v watermark keys.txt | clipdre emit scores --keys - -o kept"


def emit(
    scores: write.Scores,
    keys: Annotated[
        str,
        typer.Option(
            help="List of samples, - for stdin: lines (shard/key, key or uid), JSON lines, "
            "Parquet, or DataComp's .npy."
        ),
    ],
    output: write.Output = None,
    format: write.Format = SubsetFormat.TAR,
    shards: write.Shards = None,
    shard_size: write.ShardSize = EmitConfig.shard_size,
    max_bytes: write.MaxBytes = None,
    shuffle: write.Shuffle = False,
    seed: write.Seed = 0,
    writers: write.Writers = EmitConfig.writers,
    overwrite: write.Overwrite = False,
) -> None:
    """Write the samples named in a list, from any tool.

    Samples come in pool order; a name that several samples share takes them all. Prints the path
    it wrote.
    """
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.selecting.listed import select_listed
    from clipdre.sql.query import ScoreQuery

    place = write.output_or_refuse(output)
    manifest = read_complete_manifest(scores)
    source = "stdin" if keys == write.STDOUT else keys
    query = ScoreQuery(ScoreFolder(scores), manifest)
    found = select_listed(query, _names(keys, source), source)
    note(f"keeping {len(found.selection):,} of {found.selection.pool:,} pairs")
    if found.missing:
        note(
            f"{found.missing:,} of the {found.names:,} names are not in these scores "
            f"(e.g. {found.first_missing})"
        )
    config = write.emit_config(shard_size, max_bytes, shuffle, seed, writers)
    write.write_and_print(found.selection, place, format, config, shards, overwrite)


def _names(keys: str, source: str) -> NameList:
    from clipdre.formats.name_lists import read_names

    if keys == write.STDOUT:
        return read_names(sys.stdin.buffer, source)
    try:
        with open(keys, "rb") as file:
            return read_names(file, source)
    except OSError as error:
        problem = f"cannot read `keys` {keys} ({error.strerror})"
        raise SelectionError(problem, "name a file, or - for stdin") from error
