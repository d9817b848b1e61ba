"""A pool sorted by key on disk, without any process that holds it: runs, and their merge.

The rows of a pool are divided into blocks. One item of work sorts a block by key and writes it as a
run; another one reads the records of a few keys from all runs. Neither depends on who did what, so
the result has the same bytes on any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from clipdre.core.modality import Modality
from clipdre.engines.base import Engine, Work
from clipdre.engines.local import InProcess
from clipdre.formats.folders.embeddings import StoredPool
from clipdre.formats.folders.parts import Arrays, Parts, digest_of
from clipdre.progress import Progress

TILE_ROWS = 2048
# Blocks are of whole tiles, so that products do not depend on their size. In large pools both their
# number and their size grow with the root of the pool: 126,976 rows of 10^9.
TILES_PER_BLOCK, ROOT_PER_TILE = 8, 512
# Smaller pools stay in this process: to start others would take longer.
HANDED_OUT = 131_072
STARTS = "starts"
Ints = npt.NDArray[np.int64]


def blocks_of(pairs: int) -> list[range]:
    """Divide the rows of a pool into blocks."""
    size = TILE_ROWS * max(TILES_PER_BLOCK, round(pairs**0.5 / ROOT_PER_TILE))
    return [range(start, min(start + size, pairs)) for start in range(0, pairs, size)]


def tiles_of(rows: range) -> Iterator[range]:
    """Divide a block into tiles."""
    for start in range(rows.start, rows.stop, TILE_ROWS):
        yield range(start, min(start + TILE_ROWS, rows.stop))


def engine_for(engine: Engine, pairs: int) -> Engine:
    """Return the engine for a pool of so many pairs."""
    return engine if pairs > HANDED_OUT else InProcess(engine.devices[0])


@dataclass(frozen=True)
class Item:
    """Something to do whose result is a part.

    Attributes
    ----------
    part : str
        Name of the part, which is written last.
    made_of : str
        What the part is made from, besides what all parts are.
    size : int
        Rows, for progress.
    """

    part: str
    made_of: str
    size: int


def run_missing(
    engine: Engine, work: Work[Any, None], items: Sequence[Item], parts: Parts, progress: Progress
) -> None:
    """Do the items whose parts are not there yet."""
    missing = [item for item in items if not parts.has(item.part, item.made_of)]
    progress.skip(sum(item.size for item in items) - sum(item.size for item in missing))
    for _ in engine.run(work, missing, progress.advance):
        pass


def identity_of(pool: StoredPool, rows: range) -> str:
    """Return a digest of size and time of change of the files that some rows are in."""
    first, last = np.searchsorted(pool.starts, (rows.start, rows.stop - 1), side="right") - 1
    paths = [s.array(m) for s in pool.shards[int(first) : int(last) + 1] for m in Modality]
    return digest_of([(f.st_size, f.st_mtime_ns) for f in (path.stat() for path in paths)])


def sorted_by(keys: Ints, count: int) -> tuple[Ints, Arrays]:
    """Return the order of records by their keys, below `count`, and what a run says of them.

    Records of one key stay in their order.
    """
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=count), out=starts[1:])
    return np.argsort(keys, kind="stable"), {STARTS: starts}


@dataclass(frozen=True)
class Runs:
    """Runs of one pool, block by block.

    Attributes
    ----------
    paths : sequence of Path
    most : int
        Records that are read together, if they are of several keys.
    """

    paths: Sequence[Path]
    most: int

    def counts(self) -> Ints:
        """Return the number of records of each key."""
        found: Ints = np.zeros(0, np.int64)
        for path in self.paths:
            with safetensors.safe_open(path, "numpy") as run:
                counts = np.diff(run.get_tensor(STARTS))
            found = found + counts if len(found) else counts
        return found

    def records(self, counts: Ints, low: int, high: int) -> Iterator[Arrays]:
        """Yield the records of keys `low` to `high` by key, those of one key block by block.

        Parameters
        ----------
        counts : int64 array of shape (keys,)
            See `counts`.
        """
        for first, last in ranges_of(counts[low:high], self.most):
            found = self._read(low + first, low + last)
            if last - first == 1:  # already in order, and perhaps too many to hold
                yield from (records for _, records in found)
            elif together := list(found):
                yield _by_key(together)

    def _read(self, low: int, high: int) -> Iterator[tuple[Ints, Arrays]]:
        """Yield keys and records of each run that has some."""
        for path in self.paths:
            with safetensors.safe_open(path, "numpy") as run:
                starts = run.get_slice(STARTS)[low : high + 1]
                first, last = int(starts[0]), int(starts[-1])
                if last > first:
                    names = [name for name in run.keys() if name != STARTS]  # noqa: SIM118
                    records = {name: run.get_slice(name)[first:last] for name in names}
                    yield np.repeat(np.arange(high - low), np.diff(starts)), records


def ranges_of(counts: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Divide keys into ranges of at most `most` records, or of a single key; none is empty."""
    start = records = 0
    for key, count in enumerate(counts.tolist()):
        if records + count > most and key > start:
            yield start, key
            start, records = key, 0
        records += count
    if len(counts):
        yield start, len(counts)


def _by_key(found: Sequence[tuple[Ints, Arrays]]) -> Arrays:
    keys = np.concatenate([keys for keys, _ in found])
    order = np.argsort(keys, kind="stable")
    return {
        name: np.concatenate([records[name] for _, records in found])[order] for name in found[0][1]
    }
