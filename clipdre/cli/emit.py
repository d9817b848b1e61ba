"""`clipdre emit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.cli import emit_options as write
from clipdre.cli.common_options import Address, Engines, OneCpu, Scores, SliceOption
from clipdre.cli.terminal import given_options
from clipdre.config import EmitConfig, EngineConfig, EngineName
from clipdre.only_with import OnlyWith, check
from clipdre.slices import as_slice
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.formats.name_lists import NameList

EXAMPLE = "Example:  grep -v watermark keys.txt | clipdre emit scores --keys - -o kept"
PAIRINGS = (OnlyWith("seed", ("shuffle",)),)


def emit(
    context: typer.Context,
    scores: Scores,
    keys: Annotated[
        str,
        typer.Option(
            help="List of samples, - for stdin: lines (shard/key, key, uid, or name of a file), "
            "DataComp's .npy, or columns shard, key and uid, or file_name, of JSON lines, CSV, "
            "TSV, Parquet or Arrow.",
            metavar="FILE",
        ),
    ],
    output: write.Output = None,
    format: write.Format = None,
    shards: write.Shards = None,
    shard_size: write.ShardSize = EmitConfig.shard_size,
    max_bytes: write.MaxBytes = None,
    shuffle: write.Shuffle = False,
    seed: write.Seed = 0,
    writers: write.Writers = EmitConfig.writers,
    card: write.Card = False,
    write_caption: write.WriteCaption = False,
    overwrite: write.Overwrite = False,
    slice: SliceOption = None,
    engine: Engines = EngineName.LOCAL,
    address: Address = None,
    cpus_per_worker: OneCpu = None,
) -> None:
    """Write the samples named in a list, from any tool.

    Writes samples in pool order. A name that several samples share selects all of them. Prints the
    path it wrote.
    """
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.selecting.listed import select_listed
    from clipdre.sql.query import ScoreQuery

    given = given_options(context)
    check(given, PAIRINGS)
    place = write.checked_output(output, format, given)
    manifest = read_complete_manifest(scores)
    source = "stdin" if keys == write.STDOUT else keys
    query = ScoreQuery(ScoreFolder(scores), manifest)
    found = select_listed(query, _names(keys, source), source)
    kept = len(found.selection)
    note(f"keeping {kept:,} of {count(found.selection.pool, 'pair')}")
    if kept > (named := found.names - found.missing):
        names = f"{count(named, 'name')} {'keeps' if named == 1 else 'keep'}"
        note(f"several samples share a name: {names} {count(kept, 'sample')}")
    if found.missing:
        note(
            f"not in these scores: {found.missing:,} of {count(found.names, 'name')}, "
            f"such as {found.first_missing!r}"
        )
    shuffle_seed, part = seed if shuffle else None, as_slice(slice)
    machines = EngineConfig(engine, address, cpus_per_worker)
    config = EmitConfig(
        shard_size, max_bytes, shuffle_seed, writers, card, write_caption, part, machines
    )
    write.write_and_print(found.selection, place, format, config, shards, overwrite)


def _names(keys: str, source: str) -> NameList:
    from clipdre.formats.name_lists import read_name_file, read_names

    if keys == write.STDOUT:
        return read_names(sys.stdin.buffer, source)
    return read_name_file(keys, "keys", "name a file, or - for stdin")
