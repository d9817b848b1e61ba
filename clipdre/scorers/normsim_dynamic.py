"""NormSim without a target: how long a pair stays while the pool is cut towards its own centre."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import added, of_rows

RANK = "normsim_dynamic_rank"


@dataclass(frozen=True)
class DynamicNormSim:
    """Place of a pair when the least close to the rest of the pool are dropped, round by round.

    The target of NormSim-2 is the pool itself: closeness is ``v' S v``, where S is the mean of
    ``v v'`` over the pairs that are left. Each round drops the lowest, and S is computed again,
    until `--keep` of the pool is left. The best pairs by this rank are what the rule keeps, for any
    number at or above that share: ``--by normsim_dynamic_rank --bottom 20%``.

    It needs no target data, and helps to drop what is unlike all else. It misleads where noise is
    common, since what is common is its target: begin with pairs that match (``--start 30%`` by
    `log_ratio`, as the paper does with its own loss), which puts all others last in the order of
    that column. It favours frequent kinds and copies, so it makes a subset less diverse.
    """

    name: ClassVar = "normsim-dynamic"
    title: ClassVar = "Closeness of the image to what is left of the pool"
    source: ClassVar = "Wang et al., NormSim-2-D, NeurIPS 2024 (arXiv 2405.19547)"
    cost: ClassVar = "two passes over vectors a round"
    version: ClassVar = 1
    example: ClassVar = {"rounds": 3, "start": 0.5}

    keep: float = setting("Share of the pool at which to stop.", default=0.2)
    rounds: int = setting("Rounds in which pairs are dropped.", default=20)
    start: float = setting("Share of the pool to begin with: the best by a column.", default=1.0)
    by: str = setting("That column.", default="log_ratio")
    modality: Modality = setting("Vectors to compare.", default=Modality.IMAGE)

    def __post_init__(self) -> None:
        if not 0 < self.keep <= self.start <= 1:
            problem = f"`keep` is {self.keep} and `start` {self.start}"
            raise UsageError(problem, "use shares above 0, up to 1, with `start` the larger")
        if self.rounds < 1:
            raise UsageError(f"`rounds` {self.rounds} is too small", "use 1 or more")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (Column(RANK, "", "place by how late the pair is dropped; 1 is the best", "low"),)

    def fit(self, pool: Pool) -> Arrays:
        """Drop pairs round by round."""
        hashes = pool.column("key_hash")
        ranks = np.zeros(len(pool), np.int64)
        left = self._first(pool, ranks, hashes)
        rounds = min(self.rounds, len(left))  # a round drops a pair or more
        sizes = np.linspace(len(left), max(1, round(self.keep * len(pool))), rounds + 1)
        for n, size in enumerate([*np.round(sizes[1:]).astype(np.int64).tolist(), 0]):
            among = np.zeros(len(pool), bool)
            among[left] = True
            found = pool.reduce(f"moment {n}", partial(self._moment, among=among), added)
            closeness = partial(self._closeness, moment=found["moment"] / len(left))
            values = pool.collect(f"closeness {n}", closeness)["closeness"][left]
            # Ties are broken by key hash; the order within a round is that of its closeness.
            left = left[np.lexsort((hashes[left], -values))]
            ranks[left[size:]] = np.arange(size, len(left)) + 1
            left = left[:size]
        return {RANK: ranks}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {RANK: of_rows(learned[RANK], rows)}

    def _first(
        self, pool: Pool, ranks: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int64]:
        """Return the rows to begin with, and rank the others after them."""
        if self.start == 1:
            return np.arange(len(pool))
        if not pool.has_column(self.by):
            raise UsageError(f"there is no column {self.by}", "name one of the scores in `by`")
        values = pool.collect("order", partial(_values, column=self.by))["value"]
        order = np.lexsort((hashes, -np.nan_to_num(values, nan=-np.inf)))
        count = max(1, round(self.start * len(pool)))
        ranks[order[count:]] = np.arange(count, len(pool)) + 1
        return order[:count]

    def _moment(self, rows: Rows, among: npt.NDArray[np.bool_]) -> Arrays:
        own = torch.from_numpy(of_rows(among, rows))
        vectors = rows.vectors(self.modality)[own].double()
        return {"moment": (vectors.T @ vectors).numpy()}

    def _closeness(self, rows: Rows, moment: npt.NDArray[np.float64]) -> Arrays:
        vectors = rows.vectors(self.modality).double()
        found = ((vectors @ torch.from_numpy(moment)) * vectors).sum(dim=1)
        # Copies are as close, though sums round differently with the rows that come together.
        return {"closeness": found.float().numpy()}


def _values(rows: Rows, column: str) -> Arrays:
    return {"value": rows.column(column).astype(np.float64)}
