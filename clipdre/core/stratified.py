"""Near counterparts exactly and the rest from a uniform bulk in folds: one form for all methods.

With `exact`, every counterpart is near and there are no folds; with `sample`, none is near;
`stratified` has both. The bulk members that are not near represent all counterparts that are not
near, each with weight rest / (number of such bulk members).

Every pool is two halves, divided by a bit of the key hash. A quantity that depends on which half
stands for the pool depends on the accident of the pool: see `reliability`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition

HALVES = 2
Statistic = Callable[[RunningPartition], Tensor]


@dataclass(frozen=True)
class StratifiedPartition:
    """An estimated partition over a whole pool.

    Attributes
    ----------
    near : RunningPartition of shape (n, 2)
        Exact partition over the near counterparts, by half of the pool.
    folds : RunningPartition of shape (n, f)
        Partition over the bulk members that are not near, by fold; f is 0 if all are near. The
        first f / 2 folds are from the pool's first half, the others from its second.
    rest : float64 Tensor of shape (n, 2)
        Number of counterparts that are not near, by half.
    """

    near: RunningPartition
    folds: RunningPartition
    rest: Tensor

    def whole(self) -> RunningPartition:
        """Return the estimate over the whole pool, shape (n,)."""
        return _completed(self.near.over_folds(), self._all_rest, self.folds)

    def half(self, half: int) -> RunningPartition:
        """Return the estimate over one half of the pool, 0 or 1; shape (n,)."""
        folds = self.folds.max.shape[1] // HALVES
        own = self.folds.select_folds(slice(half * folds, (half + 1) * folds))
        return _completed(self.near.fold(half), self.rest[:, half], own)

    @property
    def _all_rest(self) -> Tensor:
        return self.rest.sum(dim=1)

    @cached_property
    def without_each_fold(self) -> RunningPartition:
        """Estimates that leave out one fold each, shape (n, f)."""
        n, f = self.folds.max.shape
        if not f:
            return RunningPartition.empty(n, 0, device=self.rest.device)
        folds = [self.folds.fold(k) for k in range(f)]
        # Merging from both ends avoids the cancellation of subtracting the largest fold from a sum.
        before = list(accumulate(folds, RunningPartition.merge))
        after = list(accumulate(folds[::-1], RunningPartition.merge))[::-1]
        inner = [before[k - 1].merge(after[k + 1]) for k in range(1, f - 1)]
        others = [after[1], *inner, before[-2]]
        near, rest = self.near.over_folds(), self._all_rest
        return RunningPartition.stack([_with_bulk(near, rest, bulk) for bulk in others])

    def deviations(self, statistic: Statistic) -> Tensor:
        """Compute scaled delete-one deviations of `statistic`; their squares sum to its variance.

        This is a jackknife over folds with finite-population correction; float64 of shape (n, f).
        Adding the deviations of two statistics of the same folds accounts for their covariance.
        """
        values = statistic(self.without_each_fold)
        f = values.shape[1]
        if not f:
            return values
        drawn = self.folds.weight.sum(dim=1)
        unseen = (1 - drawn / self._all_rest.clamp(min=1)).clamp(min=0)
        spread = values - values.mean(dim=1, keepdim=True)
        return spread * torch.sqrt((f - 1) / f * unseen)[:, None]


def _completed(near: RunningPartition, rest: Tensor, folds: RunningPartition) -> RunningPartition:
    """Let the bulk, in folds, stand for the `rest` of the counterparts; none if all are near."""
    if not folds.max.shape[1]:
        return near
    return _with_bulk(near, rest, folds.over_folds())


def _with_bulk(near: RunningPartition, rest: Tensor, bulk: RunningPartition) -> RunningPartition:
    factor = torch.where(bulk.weight > 0, rest / bulk.weight.clamp(min=1), 0.0)
    # Even if no bulk member is left to represent them, these counterparts count.
    return replace(near.merge(bulk.scale(factor)), weight=near.weight + rest)


def standard_error(deviations: Tensor) -> Tensor:
    """Compute the standard error from `StratifiedPartition.deviations`; 0 without a bulk."""
    return torch.sqrt((deviations**2).sum(dim=1))
