"""Rows that are in several files, one after another, and are read as if they were in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdre.formats.folders.embeddings import map_array


@dataclass(frozen=True)
class StackedRows:
    """Rows of arrays on disk, each of which is open only while it is read.

    Attributes
    ----------
    paths : sequence of Path
    starts : int64 array of shape (files + 1,)
        The first row of each file, and the number of rows.
    """

    paths: Sequence[Path]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, paths: Sequence[Path], lengths: Iterable[int]) -> StackedRows:
        """Return the rows of files of these lengths."""
        return cls(paths, np.array([0, *accumulate(lengths)]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return a copy of some rows."""
        wanted = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        files = np.searchsorted(self.starts, wanted, side="right") - 1
        found = None
        for file in np.unique(files) if len(wanted) else (0,):
            array = map_array(self.paths[int(file)])
            if found is None:
                found = np.empty((len(wanted), *array.shape[1:]), array.dtype)
            own = files == file
            found[own] = array[wanted[own] - self.starts[int(file)]]
        assert found is not None
        return found


Rows = npt.NDArray[Any] | StackedRows
