"""A selection to a subset: tars by byte span, keys, or Parquet."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.errors import InputError, OutputError
from clipdre.formats.locate import Located, locate
from clipdre.formats.manifest import Manifest
from clipdre.formats.score_folder import ScoreFolder
from clipdre.formats.shards import shard_name
from clipdre.formats.spans import Source, copy_spans, end_archive
from clipdre.formats.storage import committed, identify, open_source, remove_unfinished
from clipdre.formats.tables import write_table
from clipdre.formats.uids import uid_array
from clipdre.progress import Progress
from clipdre.stages.select import Selection

SUMMARY = "summary.json"
KEY_SEPARATOR = "/"


@dataclass(frozen=True)
class Subset:
    """A selection of a score folder, as rows to write."""

    folder: ScoreFolder
    manifest: Manifest
    selection: Selection

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """For each shard that keeps rows: its index in the manifest, and the kept rows' table."""
        rows = self.selection.rows
        bounds = np.searchsorted(rows.shard, np.arange(len(self.manifest.shards) + 1))
        for shard, (low, high) in enumerate(pairwise(bounds)):
            if low < high:
                table = pq.read_table(self.folder.scores(self.manifest.shards[shard].name))
                yield shard, table.take(pa.array(rows.row[low:high])).replace_schema_metadata(None)

    def source(self, shard: int) -> Source:
        """The tar behind a shard; `OutputError` when it was scored from embeddings alone."""
        if "embeddings" in self.manifest.settings["read"]:
            raise OutputError(
                "these scores were made from embeddings, there are no tars behind them: "
                "give --format uids, keys or parquet, or point --shards at the tars"
            )
        record = self.manifest.shards[shard]
        return Source(record.url, record.nbytes, record.modified)

    def summary(self) -> dict[str, Any]:
        """What was asked and kept, by which rule, from what; the digest names the subset."""
        selection, model = self.selection, self.manifest.model
        digest = hashlib.sha256(model.digest.encode() + self.manifest.reference["digest"].encode())
        digest.update(selection.rows.shard.tobytes() + selection.rows.row.tobytes())
        return {
            "clipdre_version": self.manifest.clipdre_version,
            "rule": asdict(selection.rule),
            "pool": selection.pool,
            "after_where": selection.after_where,
            "unranked": selection.unranked,
            "asked": selection.asked,
            "kept": len(selection),
            "scores": str(self.folder.path.resolve()),
            "model": {"name": model.name, "pretrained": model.pretrained, "digest": model.digest},
            "reference": self.manifest.reference,
            "digest": digest.hexdigest(),
        }


class RelocatedSubset(Subset):
    """A selection whose samples lie in other tars than those that were scored, if in any.

    Samples are found by uid, else by key, and come in the order of these tars.
    """

    def __init__(self, subset: Subset, urls: Sequence[str]) -> None:
        super().__init__(subset.folder, subset.manifest, subset.selection)
        kept = pa.concat_tables([table for _, table in subset.tables()])
        names = zip(kept["uid"].to_pylist(), kept["key"].to_pylist(), strict=True)
        # uids repeat where a pool holds exact duplicates: each of them is to be found.
        rows: dict[str, list[int]] = {}
        for row, (uid, key) in enumerate(names):
            rows.setdefault(uid or key, []).append(row)
        self._parts: list[tuple[Source, pa.Table]] = []
        for url in urls:
            identity = identify(url)
            with open_source(url) as file:
                found = list(locate(file, rows.__contains__))
            taken = [(s, rows.get(s.uid or "") or rows.get(s.key)) for s in found]
            here = [(sample, left.pop(0)) for sample, left in taken if left]
            if here:
                table = kept.take(pa.array([row for _, row in here]))
                table = _moved(table, shard_name(url), [sample for sample, _ in here])
                self._parts.append((Source(url, identity.nbytes, identity.modified), table))
        lost = [name for name, left in rows.items() for _ in left]
        if lost:
            raise InputError(
                f"{len(lost):,} of {len(kept):,} kept samples are in none of the --shards "
                f"(for instance {lost[0]}): name all tars of the pool"
            )

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """For each tar that holds kept samples: its index, and their rows."""
        yield from enumerate(table for _, table in self._parts)

    def source(self, shard: int) -> Source:
        """The tar of that index."""
        return self._parts[shard][0]


def _moved(table: pa.Table, shard: str, samples: Sequence[Located]) -> pa.Table:
    """The rows of `table` with the place of each sample in another tar."""
    columns = {
        "shard": pa.array([shard] * len(samples), pa.string()),
        "offset": pa.array([sample.offset for sample in samples], pa.int64()),
        "nbytes": pa.array([sample.nbytes for sample in samples], pa.int64()),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def write_keys(subset: Subset, out: BinaryIO) -> None:
    """One ``shard/key`` per line: keys alone may repeat from shard to shard."""
    for _, table in subset.tables():
        shards, keys = table["shard"].to_pylist(), table["key"].to_pylist()
        for shard, key in zip(shards, keys, strict=True):
            out.write(f"{shard}{KEY_SEPARATOR}{key}\n".encode())


def write_uids(subset: Subset, out: BinaryIO) -> None:
    """DataComp's subset file (.npy): the kept uids, sorted, each once."""
    every = (uid for _, table in subset.tables() for uid in table["uid"].to_pylist())
    uids, without = uid_array(every)
    if without:
        warnings.warn(
            f"{without:,} of the {len(subset.selection):,} kept samples have no uid of 32 hex "
            "digits and are not in the file",
            stacklevel=2,
        )
    np.lib.format.write_array(out, uids, allow_pickle=False)


def write_parquet(subset: Subset, out: BinaryIO) -> None:
    """The kept rows of all shards as one Parquet file."""
    schema = pq.read_schema(subset.folder.scores(subset.manifest.shards[0].name))
    with pq.ParquetWriter(out, schema.remove_metadata(), compression="zstd") as writer:
        for _, table in subset.tables():
            writer.write_table(table)


def write_tar_stream(subset: Subset, out: BinaryIO) -> None:
    """The kept samples as one tar, in pool order."""
    written = 0
    for shard, table in subset.tables():
        with subset.source(shard).opened() as source:
            written += copy_spans(source, _spans(table), out)
    end_archive(out, written)


def write_tar_folder(
    subset: Subset, output: Path, shard_size: int, *, overwrite: bool = False
) -> dict[str, Any]:
    """Tars of `shard_size` samples with their scores beside them, and ``summary.json`` last.

    Returns
    -------
    dict
        The summary as written.

    Raises
    ------
    OutputError
        When `output` holds something already.
    InputError
        When a source shard is gone or has changed since it was scored.
    """
    for shard, _ in subset.tables():
        subset.source(shard)  # refuse before anything is written
        break
    _prepare(output, overwrite)
    shards = []
    with Progress("emit", len(subset.selection)) as progress:
        for index, parts in enumerate(_shards(subset, shard_size)):
            shards.append(_write_shard(subset, output, index, parts))
            samples = sum(len(table) for _, table in parts)
            progress.advance(samples, samples)
    summary = {**subset.summary(), "shards": shards}
    with committed(output / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _prepare(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: choose another --output")
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{output} is not empty: choose another --output, or give --overwrite")
    (output / SUMMARY).unlink(missing_ok=True)
    for pattern in ("[0-9]" * 8 + ".tar", "[0-9]" * 8 + ".parquet"):
        for path in output.glob(pattern):
            path.unlink()
    remove_unfinished(output)


Part = tuple[int, pa.Table]


def _shards(subset: Subset, shard_size: int) -> Iterator[list[Part]]:
    """The kept rows in portions of `shard_size`; a portion holds no key twice.

    Keys repeat from shard to shard in many pools. In one tar, loaders would take two samples of one
    key for one, so the second one opens the next tar.
    """
    parts: list[Part] = []
    keys: set[str] = set()
    for shard, table in subset.tables():
        start = 0
        for row, key in enumerate(table["key"].to_pylist()):
            if len(keys) == shard_size or key in keys:
                if row > start:
                    parts.append((shard, table.slice(start, row - start)))
                yield parts
                parts, keys, start = [], set(), row
            keys.add(key)
        parts.append((shard, table.slice(start)))
    if parts:
        yield parts


def _write_shard(
    subset: Subset, output: Path, index: int, parts: Sequence[Part]
) -> dict[str, object]:
    path = output / f"{index:08d}.tar"
    written = 0
    with committed(path) as temporary, open(temporary, "wb") as out:
        for shard, table in parts:
            with subset.source(shard).opened() as source:
                written += copy_spans(source, _spans(table), out)
        end_archive(out, written)
    scores = pa.concat_tables([table for _, table in parts])
    write_table(scores, path.with_suffix(".parquet"))
    return {"name": path.name, "samples": len(scores), "nbytes": path.stat().st_size}


def _spans(table: pa.Table) -> list[tuple[int, int]]:
    offsets, sizes = table["offset"].to_pylist(), table["nbytes"].to_pylist()
    return list(zip(offsets, sizes, strict=True))
