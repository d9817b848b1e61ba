"""Divergences between the conditional and the marginal of the other modality, in nats.

With ``w = softmax_m s_m`` over the references, the model's conditional puts w_m where the marginal
puts 1/M (Uchiyama et al., CVPR 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition


def kl(partition: RunningPartition) -> Tensor:
    """``sum_m w_m s_m - log Z``: KL(p(Y|x) || p(Y)), what x tells of Y; float64 of shape (n,)."""
    found = partition.s_exp / partition.exp - torch.log(partition.exp / partition.weight)
    return found.clamp(min=0.0)  # which only rounding goes below


def reverse_kl(partition: RunningPartition, mean_logit: Tensor) -> Tensor:
    """``log Z - (1/M) sum_m s_m``: KL(p(Y) || p(Y|x)); float64 of shape (n,).

    Parameters
    ----------
    partition : RunningPartition
    mean_logit : float64 Tensor of shape (n,)
        ``(1/M) sum_m s_m``, which the references' mean vector tells: see `moments.mean_logit`.
    """
    return partition.log_mean_exp() - mean_logit


def effective_sample_size(partition: RunningPartition) -> Tensor:
    """``1 / sum_m w_m^2``: how many references carry the conditional; float64 of shape (n,)."""
    return partition.exp**2 / partition.exp_sq
