"""Write a subset as a folder of shards: tars, each with its scores and counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
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
from clipdre.emitting.read_back import read_back
from clipdre.emitting.subset import Subset
from clipdre.emitting.tars import sample_bytes, shuffled_bytes, unique_keys, write_tar
from clipdre.errors import UsageError
from clipdre.formats.files.outputs import OutputFolder, output_folder, read_json, write_json
from clipdre.formats.files.parquet import save_table
from clipdre.progress import Progress
from clipdre.slices import OVERWRITES, Slice
from clipdre.sql.expressions import FILE, ROW

SOURCE_KEY = "source_key"
# Version of these files: a subset begun by an older clipdre is not resumed.
SCHEMA = 2
TAR_BYTES, PLAN, IMAGES = "clipdre.tar_bytes", "clipdre.plan", "clipdre.image_suffixes"


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
            target.remove_leftovers()
            write_json(target, UNFINISHED, plan)  # durable: without it, this is no subset
            _write(subset, target, config, plan)
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
        if not finished:
            subset.check()
            folder.remove_leftovers()
            if UNFINISHED not in folder.names():
                write_json(folder, UNFINISHED, plan)
        return sum(shard["samples"] for shard in _write_tars(subset, folder, config, plan, part))


def _checked(
    subset: Subset, output: Path | str, config: EmitConfig
) -> tuple[OutputFolder, dict[str, Any]]:
    """Return where a subset may go, and what identifies it there."""
    plan = {"schema": SCHEMA, "digest": subset.digest, **_decisive(config)}
    folder = output_folder(output)
    check_folder(subset.inputs(), folder)
    return folder, plan


def _write(subset: Subset, folder: OutputFolder, config: EmitConfig, plan: dict[str, Any]) -> None:
    shards = _write_tars(subset, folder, config, plan)
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
    folder: OutputFolder,
    config: EmitConfig,
    plan: dict[str, Any],
    part: Slice | None = None,
) -> list[dict[str, Any]]:
    """Write the tars that are missing, or those of a slice; return their entries in the summary."""
    writer = _ShardWriter(subset, folder, config, subset.collisions, _digest(plan))
    shards: list[dict[str, Any]] = []
    total = len(subset.selection) // (1 if part is None else part.count)
    with (
        Progress("emit", total) as progress,
        ThreadPoolExecutor(config.writers) as pool,
    ):
        running: list[Future[dict[str, Any]]] = []

        def finish(most: int) -> None:
            while len(running) > most:
                shards.append(running.pop(0).result())
                progress.advance(shards[-1]["samples"], shards[-1]["samples"])

        try:
            for index, table in enumerate(_shards(subset, config)):
                if part is not None and not part.takes(index):
                    continue
                running.append(pool.submit(writer.write, index, table))
                finish(2 * config.writers)
            finish(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return shards


def _decisive(config: EmitConfig) -> dict[str, Any]:
    """Return the settings that affect what is written."""
    unused = {"writers", "slice", *([] if config.write_caption else ["write_caption"])}
    return {name: value for name, value in asdict(config).items() if name not in unused}


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _shards(subset: Subset, config: EmitConfig) -> Iterator[pa.Table]:
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


@dataclass(frozen=True)
class _ShardWriter:
    """Writes shards; threads may share it."""

    subset: Subset
    folder: OutputFolder
    config: EmitConfig
    collisions: dict[str, int]
    plan: str

    def write(self, index: int, table: pa.Table) -> dict[str, Any]:
        """Write a shard unless it is complete already; return its entry in the summary."""
        stem = f"{index:08d}"
        stamp = self.folder.stamp(f"{stem}.parquet")
        nbytes = self.folder.size(f"{stem}.tar")
        if stamp.get(TAR_BYTES) != str(nbytes) or stamp.get(PLAN) != self.plan:
            stamp = self._write(stem, table)
        stats = {
            "count": len(table),
            "successes": len(table),
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": len(table)},
        }
        # img2dataset's counts. Rewriting them in every run costs nothing.
        write_json(self.folder, f"{stem}_stats.json", stats, durable=False)
        return {
            "name": f"{stem}.tar",
            "samples": len(table),
            "nbytes": int(stamp[TAR_BYTES]),
            IMAGES: stamp[IMAGES].split(),
        }

    def _write(self, stem: str, table: pa.Table) -> dict[str, str]:
        """Write a tar, then its scores, whose stamp records that the tar is complete."""
        keys = unique_keys(table, self.collisions)
        ordered = sample_bytes if self.config.shuffle_seed is None else shuffled_bytes
        name = f"{stem}.tar"
        with self.folder.committed(name) as temporary:
            with open(temporary, "xb", buffering=0) as out:
                write_tar(out, ordered(self.subset, table, keys))
                nbytes = out.tell()
            suffixes = read_back(temporary, name, len(table))
        if self.collisions:
            table = table.append_column(SOURCE_KEY, table["key"])
            table = table.set_column(table.column_names.index("key"), "key", pa.array(keys))
        images = suffixes & set(self.subset.manifest.settings["read"].get("image_suffixes", ()))
        stamp = {PLAN: self.plan, TAR_BYTES: str(nbytes), IMAGES: " ".join(sorted(images))}
        with self.folder.committed(f"{stem}.parquet") as temporary:
            save_table(table.drop_columns([FILE, ROW]), temporary, stamp)
        return stamp


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
