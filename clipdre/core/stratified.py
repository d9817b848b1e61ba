"""Near counterparts exactly, the rest by a uniform bulk in folds: one form for all three ways.

`exact` has everything near and no folds, `sample` nothing near, `stratified` both. The bulk's
members stand for all counterparts that are not near, each for rest / (bulk members among them).
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
    """A partition over a whole pool, of which only a part was computed.

    Attributes
    ----------
    near : RunningPartition of shape (n,)
        Over the counterparts whose logits were all computed.
    folds : RunningPartition of shape (n, f)
        Over the bulk's members that are not near, fold by fold; f is 0 where everything is near.
    rest : float64 Tensor of shape (n,)
        How many counterparts are not near.
    """

    near: RunningPartition
    folds: RunningPartition
    rest: Tensor

    def whole(self) -> RunningPartition:
        """The estimate over the whole pool, shape (n,)."""
        if not self.folds.max.shape[1]:
            return self._completed(self.near, torch.zeros_like(self.rest))
        return self._completed(self.near, self.rest, self.folds.over_folds())

    @cached_property
    def without_each_fold(self) -> RunningPartition:
        """The estimates that lack one fold each, shape (n, f)."""
        n, f = self.folds.max.shape
        if not f:
            return RunningPartition.empty(n, 0, device=self.rest.device)
        folds = [self.folds.fold(k) for k in range(f)]
        # Merged from both ends: taking a fold off the sum would cancel where it is the largest.
        before = list(accumulate(folds, RunningPartition.merge))
        after = list(accumulate(folds[::-1], RunningPartition.merge))[::-1]
        inner = [before[k - 1].merge(after[k + 1]) for k in range(1, f - 1)]
        others = [after[1], *inner, before[-2]]
        return RunningPartition.stack([self._completed(self.near, self.rest, o) for o in others])

    def deviations(self, statistic: Statistic) -> Tensor:
        """Scaled delete-one deviations of `statistic`: its variance is the sum of their squares.

        Jackknife over folds with finite-population correction; float64 of shape (n, f). Keeping
        them apart lets a sum of statistics of the same folds take its covariances along.
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
        # Where no bulk member is left to stand for it, the rest still counts as counterparts.
        return replace(whole, weight=near.weight + rest)


def standard_error(deviations: Tensor) -> Tensor:
    """Standard error from `StratifiedPartition.deviations`; 0 where nothing was sampled."""
    return torch.sqrt((deviations**2).sum(dim=1))
