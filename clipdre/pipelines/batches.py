"""Clusters of a pool in batches, so that their rows are read from disk together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import Tensor

from clipdre.core.modality import Modality
from clipdre.estimating.alike import by_cell
from clipdre.formats.folders.embeddings import Stored, float_rows
from clipdre.pipelines.rows import PoolReader
from clipdre.scorers.base import Arrays

# Rows that a batch reads, unless its only cluster has more.
BATCH_ROWS = 131_072
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """Which cluster each row is in, and which clusters are near each one.

    Attributes
    ----------
    of_rows : integer array of shape (n,)
    near : integer array of shape (number of clusters, p)
        A cluster need not be among those near it: its rows are around it anyway.
    """

    of_rows: npt.NDArray[np.integer]
    near: npt.NDArray[np.integer]

    @classmethod
    def of(cls, of_rows: npt.NDArray[np.integer], near: npt.NDArray[np.integer] | None) -> Clusters:
        """Return the clusters of a pool, on their own if nothing is said of what is near."""
        count = int(of_rows.max()) + 1
        return cls(of_rows, np.empty((count, 0), np.int64) if near is None else near)

    @cached_property
    def rows(self) -> Callable[[int], Ints]:
        """The rows of a cluster, ascending."""
        return by_cell(np.arange(len(self.of_rows)), self.of_rows, len(self.near))

    def around(self, number: int) -> list[int]:
        """Return the clusters whose rows are around a cluster."""
        return sorted({number, *self.near[number].tolist()})

    def batches(self) -> list[list[int]]:
        """Divide the clusters that have rows into batches of about `BATCH_ROWS` rows."""
        sizes = np.bincount(self.of_rows, minlength=len(self.near))
        batches: list[list[int]] = []
        left = 0
        for number in np.flatnonzero(sizes).tolist():
            size = int(sizes[self.around(number)].sum())
            if size > left or not batches:
                batches.append([])
                left = BATCH_ROWS
            batches[-1].append(number)
            left -= size
        return batches

    def members(self, reader: PoolReader, numbers: Sequence[int]) -> Iterator[StoredCluster]:
        """Yield clusters of one batch; their vectors are read once they are asked for."""
        read_together = sorted({near for number in numbers for near in self.around(number)})
        read = ReadRows(reader, self._rows_of(read_together))
        for number in numbers:
            around = StoredMembers(read, self._rows_of(self.around(number)))
            yield StoredCluster(read, self.rows(number), number, around)

    def _rows_of(self, numbers: Sequence[int]) -> Ints:
        return np.sort(np.concatenate([self.rows(number) for number in numbers]))


@dataclass(frozen=True)
class ReadRows:
    """Distinct ascending rows of a pool, and their vectors as they are stored."""

    reader: PoolReader
    rows: Ints
    stored: dict[Modality, Stored] = field(default_factory=dict)

    def vectors(self, modality: Modality, rows: Ints) -> Tensor:
        """Return unit vectors of some of the rows."""
        if modality not in self.stored:
            self.stored[modality] = self.reader.pool.stored(modality, self.rows)
        return float_rows(self.stored[modality][np.searchsorted(self.rows, rows)])


@dataclass(frozen=True)
class StoredMembers:
    """Rows that are not consecutive; see `clipdre.scorers.base.Members`."""

    read: ReadRows
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """See `Members`."""
        return self.read.reader.all_hashes[self.rows]

    def vectors(self, modality: Modality, places: Ints | None = None) -> Tensor:
        """See `Members`."""
        return self.read.vectors(modality, self.rows if places is None else self.rows[places])


@dataclass(frozen=True)
class StoredCluster(StoredMembers):
    """The rows of one cluster; see `clipdre.scorers.base.Cluster`."""

    number: int
    around: StoredMembers

    @property
    def own(self) -> Ints:
        """See `Cluster`."""
        return np.searchsorted(self.around.rows, self.rows)


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Concatenate arrays of the same names."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
