"""The one-pass accumulator over tiles of logits from which every estimate is read.

For a query x (an image, say) and its references y_m (the pool's texts) with weights w_m and logits
s_m, it keeps, per query and relative to the running maximum c of s_m,

    weight   sum_m w_m                    exp      sum_m w_m e^(s_m - c)
                                          s_exp    sum_m w_m (s_m - c) e^(s_m - c)
                                          exp_sq   sum_m w_m e^(2 (s_m - c))

A reference of weight w counts as w references of weight 1. Partitions merge in any order, so
neither tiles nor machines change a result beyond float tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


@dataclass
class RunningPartition:
    """Sums over references for many queries; all fields are float64 tensors of one shape.

    The shape is (n,) for n queries, or (n, f) where the references are kept apart in f folds.
    """

    max: Tensor
    weight: Tensor
    exp: Tensor
    s_exp: Tensor
    exp_sq: Tensor

    @classmethod
    def empty(cls, *shape: int, device: torch.device | str = "cpu") -> RunningPartition:
        """The partition of queries that have seen no reference."""
        sums = (torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4))
        start = torch.full(shape, NEGATIVE_INFINITY, dtype=torch.float64, device=device)
        return cls(start, *sums)

    @classmethod
    def of(cls, logits: Tensor, left_out: Tensor | None = None) -> RunningPartition:
        """The partition of one tile.

        Parameters
        ----------
        logits : Tensor of shape (n, m) or (n, f, m), float32 or float64
            Overwritten: at full speed there is room for one tile, not for two.
        left_out : bool Tensor of the same shape, optional
            References that do not count, such as those that are counted elsewhere.
        """
        if left_out is None:
            return cls.counting(logits, torch.zeros(logits.shape[:-1], device=logits.device))
        absent = left_out.sum(dim=-1)
        return cls.counting(logits.masked_fill_(left_out, NEGATIVE_INFINITY), absent)

    @classmethod
    def counting(cls, logits: Tensor, absent: Tensor) -> RunningPartition:
        """The partition of one tile in which `absent` entries of each row are -inf: not counted."""
        if logits.shape[-1] == 0:
            return cls.empty(*logits.shape[:-1], device=logits.device)
        top = logits.amax(dim=-1)
        # A query that sees nothing but what is left out has no maximum; its sums are all empty.
        shift = torch.where(torch.isneginf(top), torch.zeros_like(top), top)
        # Below the floor a term is lost in rounding anyway, but it or its square would be a
        # denormal number, on which processors are many times slower.
        logits.sub_(shift[..., None]).clamp_(min=_floor(logits.dtype))
        exp = torch.exp(logits)
        length = torch.linalg.vector_norm(exp, dim=-1)
        sums = [exp.sum(dim=-1), logits.mul_(exp).sum(dim=-1), length**2]
        weight = logits.shape[-1] - absent.double()
        counted = (torch.where(weight > 0, value.double(), 0.0) for value in sums)
        return cls(top.double(), weight, *counted)

    def merge(self, other: RunningPartition) -> RunningPartition:
        """The partition of both sets of references; the queries are the same."""
        top = torch.maximum(self.max, other.max)
        first, second = self.relative_to(top), other.relative_to(top)
        sums = {
            f.name: getattr(first, f.name) + getattr(second, f.name)
            for f in fields(self)
            if f.name != "max"
        }
        return RunningPartition(max=top, **sums)

    def scale(self, factor: float | Tensor) -> RunningPartition:
        """The same references, each with `factor` (scalar or shape (n,)) times its weight."""
        sums = {f.name: getattr(self, f.name) * factor for f in fields(self) if f.name != "max"}
        return RunningPartition(max=self.max, **sums)

    @classmethod
    def cat(cls, parts: Sequence[RunningPartition]) -> RunningPartition:
        """Partitions of different queries, one behind the other."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    @classmethod
    def stack(cls, folds: Sequence[RunningPartition]) -> RunningPartition:
        """Partitions of the same queries, shape (n,) each, kept apart as folds: shape (n, f)."""
        values = {f.name: [getattr(p, f.name) for p in folds] for f in fields(cls)}
        return cls(**{name: torch.stack(value, dim=1) for name, value in values.items()})

    def fold(self, k: int) -> RunningPartition:
        """One fold: shape (n, f) to (n,)."""
        return RunningPartition(**{f.name: getattr(self, f.name)[:, k] for f in fields(self)})

    def merge_rows(self, rows: Tensor, other: RunningPartition) -> None:
        """Merge `other` into the queries at `rows` (int64, each at most once), in place."""
        present = RunningPartition(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})
        merged = present.merge(other)
        for f in fields(self):
            getattr(self, f.name)[rows] = getattr(merged, f.name)

    def over_folds(self) -> RunningPartition:
        """All folds merged: shape (n, f) to (n,)."""
        top = self.max.amax(dim=1)
        level = self.relative_to(top[:, None].expand_as(self.max))
        sums = {f.name: getattr(level, f.name).sum(dim=1) for f in fields(self) if f.name != "max"}
        return RunningPartition(max=top, **sums)

    def relative_to(self, top: Tensor) -> RunningPartition:
        """The same sums relative to a maximum `top` >= the present one."""
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
        """``log (1/M) sum_m exp s_m`` in nats, float64 of shape (n,): the log partition."""
        return self.max + torch.log(self.exp / self.weight)


def leave_out_own(tile: Tensor, own: Tensor) -> Tensor:
    """Set each query's own counterpart to -inf (True in a mask); how many per row, 0 or 1.

    Parameters
    ----------
    tile : Tensor of shape (n, m)
        Logits, or a bool mask of what is left out; changed in place.
    own : int64 Tensor of shape (n,)
        Column of each query's own counterpart; any other number where it is not in this tile.
    """
    inside = (own >= 0) & (own < tile.shape[1])
    rows = torch.nonzero(inside).squeeze(1)
    tile[rows, own[rows]] = True if tile.dtype == torch.bool else NEGATIVE_INFINITY
    return inside.double()


def _floor(dtype: torch.dtype) -> float:
    return math.log(torch.finfo(dtype).tiny) / 2 + 1
