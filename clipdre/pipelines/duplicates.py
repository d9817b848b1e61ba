"""Groups of alike pairs as columns: which pairs are copies, and which of them is the best."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdre.core.ranks import ranks_in_groups
from clipdre.estimating.groups import united
from clipdre.estimating.jobs import WRITERS
from clipdre.formats.files.storage import exclusive, remove_unfinished
from clipdre.formats.folders.columns import (
    DUPLICATES,
    GROUP,
    RANK,
    ColumnFolder,
)
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ColumnRecord, MeasureRecord, ShardRecord
from clipdre.pipelines.scored import Scored

VERSION = 1


@dataclass(frozen=True)
class Duplicates:
    """Which pairs of a pool are alike.

    Attributes
    ----------
    hashes : uint64 array of shape (n,)
        Key hash of each row.
    leaders : int64 array of shape (n,)
        The row that leads each row's group, itself if it is alone.
    alike : float
        Cosine from which on pairs were alike on both sides.
    """

    hashes: npt.NDArray[np.uint64]
    leaders: npt.NDArray[np.int64]
    alike: float


def own_pairs(
    manifest: Manifest, files: Sequence[EmbeddingFiles], leaders: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return leaders of the groups that leave each other out: captions of one image do too."""
    if len(manifest.reading.captions) == 1:
        return leaders
    offsets = [file.offsets() for file in files]
    starts = (np.diff(of, prepend=-1) != 0 for of in offsets)
    return united(leaders, np.cumsum(np.concatenate(list(starts))) - 1)


def write_duplicates(
    folder: ScoreFolder, manifest: Manifest, found: Duplicates, scored: Sequence[Scored]
) -> None:
    """Write group and rank of each scored pair beside the scores, as measured columns are."""
    written = ColumnFolder(folder.columns / DUPLICATES)
    with exclusive(written.path):
        remove_unfinished(written.path, "**")
        _write(written, manifest, found, scored)


def _ranks(found: Duplicates, ratios: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int32]:
    """Return the place of each row in its group; most are alone, and need not be sorted."""
    ranks = np.ones(len(found.leaders), np.int32)
    grouped = np.flatnonzero(np.bincount(found.leaders)[found.leaders] > 1)
    ranks[grouped] = ranks_in_groups(found.leaders[grouped], ratios[grouped], found.hashes[grouped])
    return ranks


def _write(
    written: ColumnFolder, manifest: Manifest, found: Duplicates, scored: Sequence[Scored]
) -> None:
    ratios = np.concatenate([shard.ratios for shard in scored])
    columns: dict[str, npt.NDArray[Any]] = {
        GROUP.name: found.hashes[found.leaders],
        RANK.name: _ranks(found, ratios),
    }
    stamp = f"{DUPLICATES} {VERSION} {found.alike}"

    def write(shard: ShardRecord, start: int, own: Scored) -> None:
        part = slice(start, start + len(own.ratios))
        of_shard = {column: values[part] for column, values in columns.items()}
        written.write(shard.name, of_shard, written.stamp(stamp, own.digest))

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, manifest.shards, manifest.starts, scored))
    sizes = np.bincount(found.leaders, minlength=1)
    several = sizes[sizes > 1].astype(np.float64)
    written.write_record(
        MeasureRecord(
            scorer=DUPLICATES,
            version=VERSION,
            settings={"alike": found.alike},
            stamp=stamp,
            columns=tuple(map(ColumnRecord.of, (GROUP, RANK))),
            figures={
                "groups": float(len(several)),
                "grouped": float(several.sum()),
                "mean_log_size": float((several * np.log(several)).sum() / max(sizes.sum(), 1)),
            },
            rows=manifest.rows,
        )
    )
