"""Everything that the score columns of a block of pairs are read from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity
from clipdre.core.divergence import (
    effective_sample_size,
    kl,
    kl_tau,
    kl_tau_all,
    reverse_kl,
    reverse_kl_tau,
)
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments, centred_norm, covariance_norm
from clipdre.core.partition import RunningPartition
from clipdre.core.stratified import HALVES, StratifiedPartition, standard_error


@dataclass(frozen=True)
class Side:
    """One modality of a block of n pairs, against the pool of the other modality.

    Attributes
    ----------
    queries : float32 Tensor of shape (n, d)
    logits : float64 Tensor of shape (n,)
        ``a <v_i, v_t> + b`` of each pair.
    partition : StratifiedPartition of shape (n,)
        Over the other modality's pool.
    mean_logit : float64 Tensor of shape (n,)
        Mean logit with the same counterparts.
    own, other : Moments
        Of the pool's vectors of this modality, and of the other one.
    scale : float
        The logit scale.
    own_counted : bool
        Whether the partition counts a pair's own counterpart, which is left out otherwise.
    half : int, optional
        Let this half of the pool, 0 or 1, stand for all of it. The mean logit remains the whole
        pool's: it is known much better than the partition.
    """

    queries: Tensor
    logits: Tensor
    partition: StratifiedPartition
    mean_logit: Tensor
    own: Moments
    other: Moments
    scale: float
    own_counted: bool = False
    half: int | None = None

    @cached_property
    def whole(self) -> RunningPartition:
        """The estimated partition over the whole pool."""
        return self.partition.whole() if self.half is None else self.partition.half(self.half)

    @cached_property
    def log_partition(self) -> Tensor:
        """``log Z`` in nats, float64 of shape (n,)."""
        return self.whole.log_mean_exp()

    @cached_property
    def log_partition_deviations(self) -> Tensor:
        """Jackknife deviations of `log_partition`, float64 of shape (n, folds)."""
        return self.partition.deviations(RunningPartition.log_mean_exp)

    @property
    def log_partition_se(self) -> Tensor:
        """Standard error of `log_partition`; of the log ratio too, since the logit is known."""
        return standard_error(self.log_partition_deviations)

    @property
    def log_softmax(self) -> Tensor:
        """Log of the pair's share of the partition, its own counterpart counted, plus log N."""
        return self.logits - self._log_partition_with_own(self.whole)

    @property
    def log_softmax_deviations(self) -> Tensor:
        """Jackknife deviations of `log_softmax`, float64 of shape (n, folds)."""
        return -self.partition.deviations(self._log_partition_with_own)

    def _log_partition_with_own(self, partition: RunningPartition) -> Tensor:
        counted = partition if self.own_counted else partition.with_own(self.logits)
        return counted.log_mean_exp()

    @property
    def kl(self) -> Tensor:
        """KL of the conditional from the marginal, in nats."""
        return kl(self.whole)

    @property
    def kl_se(self) -> Tensor:
        """Standard error of `kl`."""
        return standard_error(self.partition.deviations(kl))

    @property
    def reverse_kl(self) -> Tensor:
        """KL of the marginal from the conditional, in nats."""
        return reverse_kl(self.whole, self.mean_logit)

    def kl_tau(self, log_tau: float) -> Tensor:
        """`kl` with -log tau in place of log Z, in nats."""
        return kl_tau(self.whole, log_tau)

    def kl_tau_all(self, log_tau: float) -> Tensor:
        """`kl` with ``tau exp(s)`` in place of every density ratio, in nats."""
        return kl_tau_all(self.whole, log_tau)

    def reverse_kl_tau(self, log_tau: float) -> Tensor:
        """`reverse_kl` with -log tau in place of log Z, in nats."""
        return reverse_kl_tau(self.mean_logit, log_tau)

    @property
    def covariance_norm(self) -> Tensor:
        """D_W in nats: see `moments.covariance_norm`."""
        return covariance_norm(self.queries, self.own, self.other, self.scale)

    @property
    def centred_norm(self) -> Tensor:
        """D_C in nats: see `moments.centred_norm`."""
        return centred_norm(self.queries, self.own, self.scale)

    @property
    def effective_sample_size(self) -> Tensor:
        """How many counterparts carry the conditional."""
        return effective_sample_size(self.whole)


@dataclass(frozen=True)
class Pairs:
    """A block of n scored pairs.

    Attributes
    ----------
    logits : float64 Tensor of shape (n,)
        ``a <v_i, v_t> + b`` of each pair.
    sides : mapping of Modality to Side
    pool_size : int
        Pairs of the pool that is scored.
    tau : int or None
        Negatives per positive in the model's training, if given.
    """

    logits: Tensor
    sides: Mapping[Modality, Side]
    pool_size: int
    tau: int | None = None

    @property
    def image(self) -> Side:
        """The images, against the pool's texts."""
        return self.sides[Modality.IMAGE]

    @property
    def text(self) -> Side:
        """The texts, against the pool's images."""
        return self.sides[Modality.TEXT]

    @cached_property
    def similarity(self) -> Tensor:
        """Cosine of each pair, or its inner product if vectors have lengths of their own."""
        return similarity(self.image.queries, self.text.queries)

    def log_ratio_of(self, modality: Modality) -> Tensor:
        """Log density ratio conditioned on one modality, in nats, float64 of shape (n,)."""
        return log_ratio(self.logits, self.sides[modality].whole)

    @cached_property
    def log_ratio(self) -> Tensor:
        """Pointwise mutual information: the mean of both readings, in nats."""
        return pointwise_mutual_information(
            self.log_ratio_of(Modality.IMAGE), self.log_ratio_of(Modality.TEXT)
        )

    @property
    def log_ratio_se(self) -> Tensor:
        """Standard error of `log_ratio`; the sides share their folds, hence their covariance."""
        both = self.image.log_partition_deviations + self.text.log_partition_deviations
        return standard_error(both / 2)

    @property
    def negcliploss(self) -> Tensor:
        """Minus the pair's CLIP loss with the whole pool as batch, plus log N, in nats."""
        return (self.image.log_softmax + self.text.log_softmax) / 2

    @property
    def negcliploss_se(self) -> Tensor:
        """Standard error of `negcliploss`."""
        both = self.image.log_softmax_deviations + self.text.log_softmax_deviations
        return standard_error(both / 2)

    def halves(self) -> tuple[Pairs, ...]:
        """Return the same pairs against each half of the pool instead of the whole."""
        return tuple(
            replace(self, sides={m: replace(side, half=half) for m, side in self.sides.items()})
            for half in range(HALVES)
        )

    @property
    def log_tau(self) -> float:
        """Log of `tau`, which has to be given."""
        assert self.tau is not None
        return math.log(self.tau)

    @property
    def log_ratio_tau(self) -> Tensor:
        """``s + log tau``: the unnormalised reading of a noise-contrastive model (SigLIP)."""
        return self.logits + self.log_tau
