"""One shard of a subset: its tar, with its scores and counts, written by whoever has room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clipdre.emitting.read_back import read_back
from clipdre.emitting.tars import keys_of, sample_bytes, shuffled_bytes, write_tar
from clipdre.engines.base import Advance
from clipdre.formats.files.outputs import OutputFolder, write_json
from clipdre.formats.files.parquet import save_table
from clipdre.formats.tars.spans import Source
from clipdre.sql.expressions import FILE, ROW

SOURCE_KEY = "source_key"
TAR_BYTES, PLAN, IMAGES = "clipdre.tar_bytes", "clipdre.plan", "clipdre.image_suffixes"


@dataclass(frozen=True)
class Shard:
    """What goes into a tar.

    Attributes
    ----------
    index : int
        Of the tar in the subset.
    rows : pa.Table
        Kept rows, with columns `FILE` and `ROW`.
    sources : mapping of int to Source
        Tars to copy from, by the values of `FILE`.
    keys : list of str or None
        Unique keys of the samples; None if those of the rows are.
    """

    index: int
    rows: pa.Table
    sources: Mapping[int, Source]
    keys: list[str] | None


@dataclass(frozen=True)
class ShardWork:
    """Writes shards, each unless it is complete already.

    Attributes
    ----------
    folder : OutputFolder
    plan : str
        Digest of what the subset is written from.
    images : frozenset of str
        Suffixes of members that are images.
    shuffled, write_caption : bool
    """

    folder: OutputFolder
    plan: str
    images: frozenset[str]
    shuffled: bool
    write_caption: bool

    def start(self, device: str, advance: Advance) -> Callable[[Shard], dict[str, Any]]:  # noqa: ARG002
        """See `clipdre.engines.base.Work`; the result is the shard's entry in the summary."""

        def do(shard: Shard) -> dict[str, Any]:
            entry = self._entry(shard)
            advance(len(shard.rows), len(shard.rows))
            return entry

        return do

    def _entry(self, shard: Shard) -> dict[str, Any]:
        stem, samples = f"{shard.index:08d}", len(shard.rows)
        stamp = self.folder.stamp(f"{stem}.parquet")
        nbytes = self.folder.size(f"{stem}.tar")
        if stamp.get(TAR_BYTES) != str(nbytes) or stamp.get(PLAN) != self.plan:
            stamp = self._write(stem, shard)
        stats = {
            "count": samples,
            "successes": samples,
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": samples},
        }
        # img2dataset's counts. Rewriting them in every run costs nothing.
        write_json(self.folder, f"{stem}_stats.json", stats, durable=False)
        return {
            "name": f"{stem}.tar",
            "samples": samples,
            "nbytes": int(stamp[TAR_BYTES]),
            IMAGES: stamp[IMAGES].split(),
        }

    def _write(self, stem: str, shard: Shard) -> dict[str, str]:
        """Write a tar, then its scores, whose stamp records that the tar is complete."""
        table = shard.rows
        ordered = shuffled_bytes if self.shuffled else sample_bytes
        keys = keys_of(table) if shard.keys is None else shard.keys
        name = f"{stem}.tar"
        with self.folder.committed(name) as temporary:
            with open(temporary, "xb", buffering=0) as out:
                write_tar(out, ordered(shard.sources, table, keys, self.write_caption))
                nbytes = out.tell()
            suffixes = read_back(temporary, name, len(table))
        if shard.keys is not None:
            table = table.append_column(SOURCE_KEY, table["key"])
            table = table.set_column(table.column_names.index("key"), "key", pa.array(keys))
        images = " ".join(sorted(suffixes & self.images))
        stamp = {PLAN: self.plan, TAR_BYTES: str(nbytes), IMAGES: images}
        with self.folder.committed(f"{stem}.parquet") as temporary:
            save_table(table.drop_columns([FILE, ROW]), temporary, stamp)
        return stamp
