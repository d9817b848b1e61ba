"""Near counterparts exactly and the rest from a uniform bulk in folds: one form for all methods.

With `exact`, every counterpart is near and there are no folds; with `sample`, none is near;
`stratified` has both. The bulk members that are not near represent all counterparts that are not
near, each with weight rest / (number of such bulk members).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition

Statistic = Callable[[RunningPartition], Tensor]


@dataclass(frozen=True)
class StratifiedPartition:
    """An estimated partition over a whole pool.

    Attributes
    ----------
    near : RunningPartition of shape (n,)
        Exact partition over the near counterparts.
    folds : RunningPartition of shape (n, f)
        Partition over the bulk members that are not near, by fold; f is 0 if all are near.
    rest : float64 Tensor of shape (n,)
        Number of counterparts that are not near.
    """

    near: RunningPartition
    folds: RunningPartition
    rest: Tensor

    def whole(self) -> RunningPartition:
        """Return the estimate over the whole pool, shape (n,)."""
        if not self.folds.max.shape[1]:
            return self._completed(self.near, torch.zeros_like(self.rest))
        return self._completed(self.near, self.rest, self.folds.over_folds())

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
        return RunningPartition.stack([self._completed(self.near, self.rest, o) for o in others])

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
        unseen = (1 - drawn / self.rest.clamp(min=1)).clamp(min=0)
        spread = values - values.mean(dim=1, keepdim=True)
        return spread * torch.sqrt((f - 1) / f * unseen)[:, None]

    def _completed(
        self, near: RunningPartition, rest: Tensor, bulk: RunningPartition | None = None
    ) -> RunningPartition:
        whole = near
        if bulk is not None:
            factor = torch.where(bulk.weight > 0, rest / bulk.weight.clamp(min=1), 0.0)
            whole = near.merge(bulk.scale(factor))
        # Even if no bulk member is left to represent them, these counterparts count.
        return replace(whole, weight=near.weight + rest)


def standard_error(deviations: Tensor) -> Tensor:
    """Compute the standard error from `StratifiedPartition.deviations`; 0 without a bulk."""
    return torch.sqrt((deviations**2).sum(dim=1))
