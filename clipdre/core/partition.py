"""The one-pass accumulator over tiles of logits from which every estimate is read.

For a query x (an image, say) and its references y_m (the pool's texts) with weights w_m and logits
s_m, it keeps, per query and relative to the running maximum c of s_m,

    weight   sum_m w_m                    exp      sum_m w_m e^(s_m - c)
    s        sum_m w_m s_m                s_exp    sum_m w_m (s_m - c) e^(s_m - c)
                                          exp_sq   sum_m w_m e^(2 (s_m - c))

A reference of weight w counts as w references of weight 1. Partitions merge in any order, so
neither tiles nor machines change a result beyond float tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


@dataclass
class RunningPartition:
    """Sums over references for a batch of queries; each field is a float64 tensor of shape (n,)."""

    max: Tensor
    weight: Tensor
    exp: Tensor
    s_exp: Tensor
    exp_sq: Tensor
    s: Tensor

    @classmethod
    def empty(cls, n: int, device: torch.device | str = "cpu") -> RunningPartition:
        """The partition of `n` queries that have seen no reference."""
        sums = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(5))
        start = torch.full((n,), NEGATIVE_INFINITY, dtype=torch.float64, device=device)
        return cls(start, *sums)

    @classmethod
    def of(cls, logits: Tensor, exclude: Tensor | None = None) -> RunningPartition:
        """The partition of one tile.

        Parameters
        ----------
        logits : Tensor of shape (n, m), float32 or float64
            Overwritten: at full speed there is room for one tile, not for two.
        exclude : int64 Tensor of shape (n,), optional
            Per query, the column that is its own counterpart; -1 where the tile does not hold it.
        """
        n, m = logits.shape
        rows = columns = torch.empty(0, dtype=torch.int64, device=logits.device)
        if exclude is not None:
            rows = torch.nonzero(exclude >= 0).squeeze(1)
            columns = exclude[rows]
        logits[rows, columns] = NEGATIVE_INFINITY
        top = logits.amax(dim=1) if m else logits.new_full((n,), NEGATIVE_INFINITY)
        # A query that sees nothing but itself has no maximum; its sums are all empty.
        shift = torch.where(torch.isneginf(top), torch.zeros_like(top), top)
        logits -= shift[:, None]
        logits[rows, columns] = 0.0
        exp = torch.exp(logits)
        exp[rows, columns] = 0.0
        weight = torch.full((n,), float(m), dtype=torch.float64, device=logits.device)
        weight[rows] -= 1.0
        return cls(
            max=top.double(),
            weight=weight,
            exp=exp.sum(dim=1).double(),
            s_exp=torch.linalg.vecdot(exp, logits).double(),
            exp_sq=torch.linalg.vecdot(exp, exp).double(),
            s=logits.sum(dim=1).double() + shift.double() * weight,
        )

    def merge(self, other: RunningPartition) -> RunningPartition:
        """The partition of both sets of references; the queries are the same."""
        top = torch.maximum(self.max, other.max)
        first, second = self._relative_to(top), other._relative_to(top)
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

    def _relative_to(self, top: Tensor) -> RunningPartition:
        """The same sums relative to a maximum `top` >= the present one."""
        drop = torch.where(torch.isneginf(self.max), torch.zeros_like(top), self.max - top)
        decay = torch.exp(drop)
        return RunningPartition(
            max=top,
            weight=self.weight,
            exp=self.exp * decay,
            s_exp=(self.s_exp + drop * self.exp) * decay,
            exp_sq=self.exp_sq * decay * decay,
            s=self.s,
        )

    def log_mean_exp(self) -> Tensor:
        """``log (1/M) sum_m exp s_m`` in nats, float64 of shape (n,): the log partition."""
        return self.max + torch.log(self.exp / self.weight)


def accumulate(
    queries: Tensor,
    tiles: Iterable[tuple[int, Tensor]],
    *,
    scale: float,
    bias: float = 0.0,
    own: Tensor | None = None,
    query_rows: int = 1024,
) -> RunningPartition:
    """Partition of each query over references that arrive in tiles.

    Parameters
    ----------
    queries : float Tensor of shape (n, d), unit rows
    tiles : iterable of (start, references)
        `references` of shape (m, d), unit rows; `start` is the index of its first row.
    scale, bias : float
        Of the logits ``scale * <x, y> + bias``.
    own : int64 Tensor of shape (n,), optional
        Index of each query's own counterpart among all references, -1 where it is not among them.
    query_rows : int
        Queries per product; bounds the memory of a tile of logits, changes no result.
    """
    blocks = torch.split(queries, query_rows)
    owns = (None,) * len(blocks) if own is None else torch.split(own, query_rows)
    parts = [RunningPartition.empty(len(block), queries.device) for block in blocks]
    for start, references in tiles:
        for n, (block, block_own) in enumerate(zip(blocks, owns, strict=True)):
            exclude = None
            if block_own is not None:
                inside = (block_own >= start) & (block_own < start + len(references))
                exclude = torch.where(inside, block_own - start, -1)
            tile = (block * scale) @ references.T
            if bias:
                tile += bias
            parts[n] = parts[n].merge(RunningPartition.of(tile, exclude))
    return RunningPartition.cat(parts)
