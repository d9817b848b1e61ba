"""The one-pass accumulator over tiles of logits from which every estimate is computed.

For a query x (say, an image) and its references y_m (the pool's texts) with weights w_m and logits
s_m, it holds, per query and relative to the running maximum c of s_m,

    weight   sum_m w_m                    exp      sum_m w_m e^(s_m - c)
                                          s_exp    sum_m w_m (s_m - c) e^(s_m - c)
                                          exp_sq   sum_m w_m e^(2 (s_m - c))

A reference of weight w counts as w references of weight 1. Partitions merge in any order, so tile
sizes and machines change results only by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")
# Pairs of a query and a reference to leave out: their rows and columns in a tile.
LeftOut = tuple[Tensor, Tensor]


@dataclass
class RunningPartition:
    """Sums over references for many queries; all fields are float64 tensors of one shape.

    The shape is (n,) for n queries, or (n, f) if the references are divided into f folds.
    """

    max: Tensor
    weight: Tensor
    exp: Tensor
    s_exp: Tensor
    exp_sq: Tensor

    @classmethod
    def empty(cls, *shape: int, device: torch.device | str = "cpu") -> RunningPartition:
        """Return the partition over no references."""
        sums = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4))
        start = torch.full(shape, NEGATIVE_INFINITY, dtype=torch.float64, device=device)
        return cls(start, *sums)

    @classmethod
    def of(cls, logits: Tensor, left_out: Tensor | None = None) -> RunningPartition:
        """Compute the partition over one tile.

        Parameters
        ----------
        logits : Tensor of shape (n, m) or (n, f, m), float32 or float64
            Overwritten: memory holds one tile, not two.
        left_out : bool Tensor of the same shape, optional
            References to leave out, such as those counted elsewhere.
        """
        if left_out is None:
            return cls.counting(logits, torch.zeros(logits.shape[:-1], device=logits.device))
        absent = left_out.sum(dim=-1)
        return cls.counting(logits.masked_fill_(left_out, NEGATIVE_INFINITY), absent)

    @classmethod
    def counting(cls, logits: Tensor, absent: Tensor) -> RunningPartition:
        """Compute the partition over one tile whose `absent` entries per row are -inf."""
        if logits.shape[-1] == 0:
            return cls.empty(*logits.shape[:-1], device=logits.device)
        top = logits.amax(dim=-1)
        # A query whose references are all left out has no maximum, and its sums are 0.
        shift = torch.where(torch.isneginf(top), torch.zeros_like(top), top)
        # Terms below the floor are lost in rounding anyway, but they or their squares would be
        # denormal numbers, which processors handle many times more slowly.
        logits.sub_(shift[..., None]).clamp_(min=_floor(logits.dtype))
        exp = torch.exp(logits)
        length = torch.linalg.vector_norm(exp, dim=-1)
        sums = [exp.sum(dim=-1), logits.mul_(exp).sum(dim=-1), length**2]
        weight = logits.shape[-1] - absent.double()
        counted = (torch.where(weight > 0, value.double(), 0.0) for value in sums)
        return cls(top.double(), weight, *counted)

    def merge(self, other: RunningPartition) -> RunningPartition:
        """Return the partition of the same queries over both sets of references."""
        top = torch.maximum(self.max, other.max)
        first, second = self.relative_to(top), other.relative_to(top)
        sums = {
            f.name: getattr(first, f.name) + getattr(second, f.name)
            for f in fields(self)
            if f.name != "max"
        }
        return RunningPartition(max=top, **sums)

    def scale(self, factor: float | Tensor) -> RunningPartition:
        """Multiply the weight of each reference by `factor`, a scalar or of shape (n,)."""
        sums = {f.name: getattr(self, f.name) * factor for f in fields(self) if f.name != "max"}
        return RunningPartition(max=self.max, **sums)

    @classmethod
    def cat(cls, parts: Sequence[RunningPartition]) -> RunningPartition:
        """Concatenate the partitions of different queries."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    @classmethod
    def stack(cls, folds: Sequence[RunningPartition]) -> RunningPartition:
        """Stack partitions of the same queries, shape (n,) each, as folds: shape (n, f)."""
        values = {f.name: [getattr(p, f.name) for p in folds] for f in fields(cls)}
        return cls(**{name: torch.stack(value, dim=1) for name, value in values.items()})

    def fold(self, k: int) -> RunningPartition:
        """Return one fold: shape (n, f) to (n,)."""
        return self._of_folds(k)

    def select_folds(self, folds: slice) -> RunningPartition:
        """Return some of the folds: shape (n, f) to (n, g)."""
        return self._of_folds(folds)

    def merge_rows(self, rows: Tensor, other: RunningPartition) -> None:
        """Merge `other` into the queries at `rows` (int64, each at most once), in place."""
        present = RunningPartition(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})
        merged = present.merge(other)
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(merged, f.name)

    def over_folds(self) -> RunningPartition:
        """Merge all folds: shape (n, f) to (n,)."""
        top = self.max.amax(dim=1)
        level = self.relative_to(top[:, None].expand_as(self.max))
        sums = {f.name: getattr(level, f.name).sum(dim=1) for f in fields(self) if f.name != "max"}
        return RunningPartition(max=top, **sums)

    def _of_folds(self, index: int | slice) -> RunningPartition:
        return RunningPartition(**{f.name: getattr(self, f.name)[:, index] for f in fields(self)})

    def with_own(self, logits: Tensor) -> RunningPartition:
        """Count each query's own counterpart, of these logits, too: shape (n,) or (n, f)."""
        shape, one = self.max.shape, torch.ones_like(self.max)
        top = logits.double().reshape(-1, *(1 for _ in shape[1:])).expand(shape)
        return self.merge(RunningPartition(top, one, one, torch.zeros_like(one), one))

    def relative_to(self, top: Tensor) -> RunningPartition:
        """Return the sums relative to `top`, which is at least the current maximum."""
        drop = torch.where(torch.isneginf(self.max), torch.zeros_like(top), self.max - top)
        decay = torch.exp(drop)
        return RunningPartition(
            max=top,
            weight=self.weight,
            exp=self.exp * decay,
            s_exp=(self.s_exp + drop * self.exp) * decay,
            exp_sq=self.exp_sq * decay * decay,
        )

    def log_mean_exp(self) -> Tensor:
        """Compute the log partition ``log (1/M) sum_m exp s_m`` in nats, float64 of shape (n,)."""
        return self.max + torch.log(self.exp / self.weight)


@dataclass(frozen=True)
class QueryGroups:
    """Groups of n queries, whose references are left out.

    Attributes
    ----------
    order : int64 Tensor of shape (n,)
        Queries by group.
    ascending : int64 Tensor of shape (n,)
        Their groups.
    """

    order: Tensor
    ascending: Tensor

    @classmethod
    def of(cls, groups: Tensor) -> QueryGroups:
        """Prepare the groups of queries, int64 of shape (n,), to be compared with many tiles."""
        ascending, order = groups.sort()
        return cls(order, ascending)

    def left_out(self, references: Tensor) -> LeftOut:
        """Return which query leaves out which of the references with these groups, shape (m,)."""
        first = torch.searchsorted(self.ascending, references)
        counts = torch.searchsorted(self.ascending, references, right=True) - first
        columns = torch.repeat_interleave(counts)
        # The k-th query of a reference's group follows the group's first one by k.
        k = torch.arange(len(columns), device=columns.device) - (counts.cumsum(0) - counts)[columns]
        return self.order[first[columns] + k], columns


def select_rows(left_out: LeftOut, rows: Tensor) -> LeftOut:
    """Return what some of the queries leave out: `rows` is int64, ascending, not empty."""
    queries, columns = left_out
    place = torch.searchsorted(rows, queries).clamp_(max=len(rows) - 1)
    hit = rows[place] == queries
    return place[hit], columns[hit]


def leave_out(tile: Tensor, left_out: LeftOut) -> Tensor:
    """Set what is left out to -inf, or to True in a mask.

    Parameters
    ----------
    tile : Tensor of shape (n, m)
        Logits, or a bool mask of the references to leave out; changed in place.
    left_out : two int64 Tensors of one shape
        Rows and columns, each pair at most once.

    Returns
    -------
    float64 Tensor of shape (n,)
        Number of references left out for each query.
    """
    rows, _ = left_out
    tile[left_out] = True if tile.dtype == torch.bool else NEGATIVE_INFINITY
    return torch.bincount(rows, minlength=len(tile)).double()


def _floor(dtype: torch.dtype) -> float:
    return math.log(torch.finfo(dtype).tiny) / 2 + 1
