"""What the score files of a pool say once all are written: each is opened once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdre.estimating.jobs import HALVES
from clipdre.formats.files.parquet import read_table, stamp_of
from clipdre.formats.folders.columns import ROWS, THREADS
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ShardRecord
from clipdre.pipelines.checks import check_whole


@dataclass(frozen=True)
class Scored:
    """The scores of one shard.

    Attributes
    ----------
    ratios : float32 array of shape (rows,)
        Log ratios.
    digest : str
        See `clipdre.formats.folders.tables.row_digest`.
    halves : str
        See `clipdre.estimating.jobs.encoded`.
    """

    ratios: npt.NDArray[np.float32]
    digest: str
    halves: str


def read_scored(folder: ScoreFolder, shards: Sequence[ShardRecord]) -> list[Scored]:
    """Read the scores of all shards; `ScoresError` if some are not as many as the records state."""

    def read(shard: ShardRecord) -> Scored:
        table = read_table(folder.scores(shard.name), ["log_ratio"])
        check_whole(folder, shard, len(table))
        stamp = stamp_of(table)
        return Scored(table["log_ratio"].to_numpy(), stamp[ROWS], stamp.get(HALVES, "{}"))

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(read, shards))
