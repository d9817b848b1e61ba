"""Write a subset as a folder of shards: tars, each with its scores and counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipdre.config import EmitConfig
from clipdre.emitting.card import write_card
from clipdre.emitting.place import (
    RENAMED,
    SIZES,
    SUMMARY,
    UNFINISHED,
    check_folder,
    finish_replacement,
    writing_folder,
)
from clipdre.emitting.shard import IMAGES, SOURCE_KEY, Shard, ShardWork
from clipdre.emitting.subset import Subset
from clipdre.emitting.tars import unique_keys
from clipdre.engines.base import Engine
from clipdre.engines.local import Threads
from clipdre.engines.open import open_cpus
from clipdre.errors import UsageError
from clipdre.formats.files.outputs import OutputFolder, output_folder, read_json, write_json
from clipdre.formats.files.parquet import save_table
from clipdre.formats.files.storage import local_path
from clipdre.progress import Progress
from clipdre.slices import OVERWRITES, Slice

# Version of these files: a subset begun by an older clipdre is not resumed.
SCHEMA = 2


def write_tar_folder(
    subset: Subset, output: Path | str, config: EmitConfig, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write tars, each with its scores and counts, and ``summary.json`` last.

    An interrupted run is resumed; a finished one is left as it is.

    Parameters
    ----------
    output : Path or str
        Folder or URL.
    overwrite : bool
        Replace another subset in `output`, once this one is complete.

    Returns
    -------
    dict
        The summary as written.

    Raises
    ------
    OutputError
        If `output` already holds something else, or what the scores were made from, or cannot be
        written.
    InputError
        If a source shard is missing or has changed since it was scored.
    """
    folder, plan = _checked(subset, output, config)
    with folder.held():
        finish_replacement(folder)  # of a run that was killed at that
        target, finished = writing_folder(folder, plan, overwrite)
        if not finished:
            subset.check()  # refuse before anything is written
            engine = _engine(subset, output, config)
            target.remove_leftovers()
            write_json(target, UNFINISHED, plan)  # durable: without it, this is no subset
            _write(subset, _work(subset, target, config, plan), config, plan, engine)
            finish_replacement(folder)
        elif UNFINISHED in folder.names():  # a run was killed between its last two steps
            folder.remove(UNFINISHED)
        return read_json(folder, SUMMARY)


def write_tar_slice(
    subset: Subset, output: Path | str, config: EmitConfig, part: Slice, *, overwrite: bool = False
) -> int:
    """Write one slice of `write_tar_folder`; other slices may be written at the same time.

    Returns
    -------
    int
        Number of samples in the tars of the slice, those that were there already included.

    Raises
    ------
    UsageError
        If the slice is to overwrite: it would drop what the others wrote.
    OutputError, InputError
        As for `write_tar_folder`, also when other slices have another plan.
    """
    if overwrite:
        raise UsageError(*OVERWRITES)
    folder, plan = _checked(subset, output, config)
    with folder.held(together=True):
        _, finished = writing_folder(folder, plan, overwrite=False)
        engine = _engine(subset, output, config)
        if not finished:
            subset.check()
            folder.remove_leftovers()
            if UNFINISHED not in folder.names():
                write_json(folder, UNFINISHED, plan)
        shards = _write_tars(subset, _work(subset, folder, config, plan), config, engine, part)
    return sum(shard["samples"] for shard in shards)


def _checked(
    subset: Subset, output: Path | str, config: EmitConfig
) -> tuple[OutputFolder, dict[str, Any]]:
    """Return where a subset may go, and what identifies it there."""
    plan = {"schema": SCHEMA, "digest": subset.digest, **_decisive(config)}
    folder = output_folder(output)
    check_folder(subset.inputs(), folder)
    return folder, plan


def _engine(subset: Subset, output: Path | str, config: EmitConfig) -> Engine:
    """Return what writes the tars: threads, or workers that see the output and the sources."""
    path, urls = local_path(str(output)), [source.url for source in subset.tars]
    return open_cpus(config.engine, Threads(config.writers), output=path, inputs=urls)


def _work(
    subset: Subset, folder: OutputFolder, config: EmitConfig, plan: dict[str, Any]
) -> ShardWork:
    images = subset.manifest.settings["read"].get("image_suffixes", ())
    shuffled = config.shuffle_seed is not None
    return ShardWork(folder, _digest(plan), frozenset(images), shuffled, config.write_caption)


def _write(
    subset: Subset, work: ShardWork, config: EmitConfig, plan: dict[str, Any], engine: Engine
) -> None:
    folder, shards = work.folder, _write_tars(subset, work, config, engine)
    folder.remove_leftovers()  # of workers that were lost
    summary = {
        **subset.summary(),
        "emitted": plan,
        "renamed": _write_renamed(folder, shards) if subset.collisions else 0,
        "image_suffixes": sorted({suffix for shard in shards for suffix in shard.pop(IMAGES)}),
        "shards": shards,
    }
    # Where open_clip's loader and DataComp's resharder look for the number of samples.
    write_json(folder, SIZES, {shard["name"]: shard["samples"] for shard in shards}, durable=False)
    if config.card:
        write_card(folder, summary)
    write_json(folder, SUMMARY, summary)
    folder.remove(UNFINISHED)


def _write_tars(
    subset: Subset,
    work: ShardWork,
    config: EmitConfig,
    engine: Engine,
    part: Slice | None = None,
) -> list[dict[str, Any]]:
    """Write the tars that are missing, or those of a slice; return their entries in the summary."""
    total = len(subset.selection) // (1 if part is None else part.count)
    # Closed in any case: an open query blocks the next one.
    with Progress("emit", total) as progress, closing(_shards(subset, config, part)) as shards:
        written = dict(engine.run(work, shards, progress.advance))
    return [written[index] for index in sorted(written)]


def _decisive(config: EmitConfig) -> dict[str, Any]:
    """Return the settings that affect what is written."""
    unused = {"writers", "slice", "engine", *([] if config.write_caption else ["write_caption"])}
    return {name: value for name, value in asdict(config).items() if name not in unused}


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _shards(subset: Subset, config: EmitConfig, part: Slice | None) -> Generator[Shard, None, None]:
    """Yield what goes into each tar, or into those of a slice."""
    collisions = subset.collisions  # a query, so not while batches are read
    for index, table in enumerate(_tables(subset, config)):
        if part is None or part.takes(index):
            keys = unique_keys(table, collisions) if collisions else None
            yield Shard(index, table, subset.sources(table), keys)


def _tables(subset: Subset, config: EmitConfig) -> Iterator[pa.Table]:
    """Yield the kept rows of each shard: at most `shard_size` samples and `max_bytes` bytes."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in subset.batches(shuffle_seed=config.shuffle_seed):
        start = 0
        sizes = batch["nbytes"].fill_null(0).to_numpy()
        for row, nbytes in enumerate(sizes.tolist()):
            full = rows == config.shard_size or (
                config.max_bytes is not None and rows and size + nbytes > config.max_bytes
            )
            if full:
                yield pa.Table.from_batches([*held, batch.slice(start, row - start)])
                held, rows, size, start = [], 0, 0, row
            rows += 1
            size += nbytes
        held.append(batch.slice(start))
    if rows:
        yield pa.Table.from_batches(held)


def _write_renamed(folder: OutputFolder, shards: list[dict[str, Any]]) -> int:
    """Write the table of keys that were made unique; return its length."""
    columns = ["shard", SOURCE_KEY, "key"]
    parts = []
    for shard in shards:
        table = folder.table(shard["name"].replace(".tar", ".parquet"), columns)
        table = table.filter(pc.not_equal(table["key"], table[SOURCE_KEY]))
        name = pa.array([shard["name"]] * len(table), pa.string())
        parts.append(table.append_column("tar", name).replace_schema_metadata(None))
    renamed_keys = pa.concat_tables(parts)
    with folder.committed(RENAMED) as temporary:
        save_table(renamed_keys, temporary)
    return len(renamed_keys)
