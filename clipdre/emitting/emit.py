"""A subset to shards: tars by byte span, many at once, with scores and counts beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipdre.config import EmitConfig
from clipdre.emitting.subset import Subset
from clipdre.errors import OutputError
from clipdre.formats.files.outputs import (
    OutputFolder,
    output_folder,
    read_json,
    remove_matching,
    write_json,
)
from clipdre.formats.files.parquet import save_table
from clipdre.formats.tars.spans import checked, end_archive, renamed, write_samples
from clipdre.progress import Progress
from clipdre.sql.expressions import FILE, ROW

SUMMARY = "summary.json"
UNFINISHED = "unfinished.json"
RENAMED = "renamed.parquet"
SOURCE_KEY = "source_key"
DIGITS = "[0-9]" * 8
# What a subset consists of, the claim to be whole first; whatever else lies in its folder stays.
PATTERNS = (
    SUMMARY,
    UNFINISHED,
    RENAMED,
    f"{DIGITS}.tar",
    f"{DIGITS}.parquet",
    f"{DIGITS}_stats.json",
)
# Version of what is written, so that a run of an older clipdre is not continued.
SCHEMA = 1


def write_tar_folder(
    subset: Subset, output: Path | str, config: EmitConfig, *, overwrite: bool = False
) -> dict[str, Any]:
    """Tars with their scores and counts beside them, and ``summary.json`` last.

    A run that was stopped goes on where it was; one that is done is not done again.

    Returns
    -------
    dict
        The summary as written.

    Raises
    ------
    OutputError
        When `output` holds something else already.
    InputError
        When a source shard is gone or has changed since it was scored.
    """
    plan = {"schema": SCHEMA, "digest": subset.digest, **_decisive(config)}
    folder = output_folder(output)
    with folder.held():
        done = _prepare(subset, folder, plan, overwrite)
        return _written(subset, folder, config, plan) if done is None else done


def _written(
    subset: Subset, folder: OutputFolder, config: EmitConfig, plan: dict[str, Any]
) -> dict[str, Any]:
    collisions = subset.collisions()
    writer = _ShardWriter(subset, folder, config, collisions, _digest(plan))
    shards: list[dict[str, Any]] = []
    with (
        Progress("emit", len(subset.selection)) as progress,
        ThreadPoolExecutor(config.writers) as pool,
    ):
        running: list[Future[dict[str, Any]]] = []

        def finish(most: int) -> None:
            while len(running) > most:
                shards.append(running.pop(0).result())
                progress.advance(shards[-1]["samples"], shards[-1]["samples"])

        try:
            for index, table in enumerate(_shards(subset, config)):
                running.append(pool.submit(writer.write, index, table))
                finish(2 * config.writers)
            finish(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    summary = {
        **subset.summary(),
        "emitted": plan,
        "renamed": _write_renamed(folder, shards) if collisions else 0,
        "shards": shards,
    }
    write_json(folder, SUMMARY, summary)
    folder.remove(UNFINISHED)
    return read_json(folder, SUMMARY)


def _decisive(config: EmitConfig) -> dict[str, Any]:
    """The settings that decide what is written."""
    return {name: value for name, value in asdict(config).items() if name != "writers"}


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _prepare(
    subset: Subset, folder: OutputFolder, plan: dict[str, Any], overwrite: bool
) -> dict[str, Any] | None:
    """Make `folder` ready; the summary when all is there already."""
    there = folder.names()
    if there and overwrite:
        remove_matching(folder, *PATTERNS)
    elif there:
        summary = read_json(folder, SUMMARY)
        if summary.get("emitted") == plan:
            if UNFINISHED in there:  # it was killed between its last two steps
                folder.remove(UNFINISHED)
            return summary
        if read_json(folder, UNFINISHED) != plan:
            raise OutputError(
                f"{folder.name} is not empty, and holds no part of this very subset: choose "
                "another --output, or give --overwrite"
            )
    subset.check()  # refuse before anything is written
    write_json(folder, UNFINISHED, plan, durable=False)
    return None


def _shards(subset: Subset, config: EmitConfig) -> Iterator[pa.Table]:
    """The kept rows in portions of at most `shard_size` samples and `max_bytes` bytes."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in subset.batches(shuffle_seed=config.shuffle_seed):
        start = 0
        sizes = batch["nbytes"].to_numpy()
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
    """Writes one shard at a time; as many at once as there are threads that call it."""

    subset: Subset
    folder: OutputFolder
    config: EmitConfig
    collisions: dict[str, int]
    plan: str

    def write(self, index: int, table: pa.Table) -> dict[str, Any]:
        """Write tar, counts and scores, unless they are there; returns what the summary says."""
        stem = f"{index:08d}"
        stamp = self.folder.stamp(f"{stem}.parquet")
        nbytes = self.folder.size(f"{stem}.tar")
        whole = nbytes is not None and stamp.get("clipdre.tar_bytes") == str(nbytes)
        if nbytes is None or not whole or stamp.get("clipdre.plan") != self.plan:
            nbytes = self._write(stem, table)
        stats = {
            "count": len(table),
            "successes": len(table),
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": len(table)},
        }
        # Counts as img2dataset writes them; anew in each run, since they cost nothing.
        write_json(self.folder, f"{stem}_stats.json", stats, durable=False)
        return {"name": f"{stem}.tar", "samples": len(table), "nbytes": nbytes}

    def _write(self, stem: str, table: pa.Table) -> int:
        """Write a tar, and behind it the scores, which are the record that it is whole."""
        keys = new_keys(table, self.collisions)
        ordered = sample_bytes if self.config.shuffle_seed is None else _shuffled_bytes
        with (
            self.folder.committed(f"{stem}.tar") as temporary,
            open(temporary, "xb", buffering=0) as out,
        ):
            written = write_samples(out, ordered(self.subset, table, keys))
            end_archive(out, written)
            nbytes = out.tell()
        if self.collisions:
            table = table.append_column(SOURCE_KEY, table["key"])
            table = table.set_column(table.column_names.index("key"), "key", pa.array(keys))
        stamp = {"clipdre.plan": self.plan, "clipdre.tar_bytes": str(nbytes)}
        with self.folder.committed(f"{stem}.parquet") as temporary:
            save_table(table.drop_columns([FILE, ROW]), temporary, stamp)
        return nbytes


def new_keys(table: pa.Table, collisions: dict[str, int]) -> list[str]:
    """The keys of the rows in the emitted tar: their own, or one that is unique.

    A key that other shards have as well gets its shard's name before it; one that its own shard has
    twice, its row as well.
    """
    keys: list[str] = table["key"].to_pylist()
    if not collisions:
        return keys
    taken = {key for key in keys if key not in collisions}
    shards, rows = table["shard"].to_pylist(), table[ROW].to_pylist()
    for n, key in enumerate(keys):
        if key in collisions:
            folder, slash, base = key.rpartition("/")
            # A dot would end the key: loaders take what follows for the suffix.
            new = f"{folder}{slash}{shards[n].replace('.', '_')}-{base}"
            if collisions[key] > 1 or new in taken:
                new = f"{new}-{rows[n]}"
            while new in taken:
                new += "-"
            taken.add(new)
            keys[n] = new
    return keys


def sample_bytes(subset: Subset, table: pa.Table, keys: list[str]) -> Iterator[memoryview | bytes]:
    """The samples of rows in pool order, under the `keys` of `new_keys`."""
    old, sources = table["key"].to_pylist(), table[FILE].to_pylist()
    offsets, sizes = table["offset"].to_pylist(), table["nbytes"].to_pylist()
    for index, group in groupby(range(len(table)), sources.__getitem__):
        rows = list(group)
        with subset.source(index).opened() as source:
            spans = source.read([(offsets[row], sizes[row]) for row in rows])
            for row, span in zip(rows, spans, strict=True):
                span = checked(span, old[row], source.name)  # noqa: PLW2901
                same = keys[row] == old[row]
                yield span if same else renamed(span, keys[row], source.name)


def _shuffled_bytes(subset: Subset, table: pa.Table, keys: list[str]) -> list[bytes]:
    """The samples of rows in any order: read in the order of the sources, then put into theirs."""
    order = pc.sort_indices(table, [(FILE, "ascending"), ("offset", "ascending")]).to_pylist()
    moved = [keys[row] for row in order]
    samples: list[bytes] = [b""] * len(table)
    found = sample_bytes(subset, table.take(pa.array(order)), moved)
    for row, data in zip(order, found, strict=True):
        samples[row] = bytes(data)
    return samples


def _write_renamed(folder: OutputFolder, shards: list[dict[str, Any]]) -> int:
    """Write the map of keys that were made unique; returns how many there are."""
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
