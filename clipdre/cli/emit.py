"""`clipdre emit`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from clipdre.cli import emit_options as write
from clipdre.config import EmitConfig, SubsetFormat

EXAMPLE = "Example:  grep -v watermark keys.txt | clipdre emit scores --keys - -o kept"


def emit(
    scores: write.Scores,
    keys: Annotated[
        str,
        typer.Option(
            help="List of samples, - is stdin: lines (shard/key, key or uid), JSON lines, "
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
    """Write the samples that a list names, from whatever tool it comes.

    Samples come in pool order; a name that several samples have takes them all. Prints the path it
    wrote.
    """
    from clipdre.cli.terminal import note
    from clipdre.errors import SelectionError
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.formats.name_lists import read_names
    from clipdre.selecting.listed import select_listed
    from clipdre.sql.query import ScoreQuery

    if output is None:
        raise typer.BadParameter("name a folder or file, or - for stdout", param_hint="--output")
    manifest = read_complete_manifest(scores)
    if keys == write.STDOUT:
        names = read_names(sys.stdin.buffer, "stdin")
    else:
        try:
            with open(keys, "rb") as file:
                names = read_names(file, keys)
        except OSError as error:
            raise SelectionError(f"cannot read --keys {keys}: {error.strerror}") from error
    said = "stdin" if keys == write.STDOUT else keys
    found = select_listed(ScoreQuery(ScoreFolder(scores), manifest), names, said)
    note(f"keeping {len(found.selection):,} of {found.selection.pool:,} pairs")
    if found.missing:
        note(
            f"{found.missing:,} of the {found.names:,} names are not in these scores "
            f"(for instance {found.first_missing})"
        )
    config = EmitConfig(shard_size, max_bytes, seed if shuffle else None, writers)
    write.write_subset(found.selection, output, format, config, shards, overwrite)
