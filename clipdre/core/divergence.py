"""Divergences between the conditional and the marginal of the other modality, in nats.

With ``w = softmax_m s_m`` over the M references, the model's conditional gives reference m the
probability w_m, and the marginal gives it 1/M (Uchiyama et al., CVPR 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition


def kl(partition: RunningPartition) -> Tensor:
    """Compute KL(p(Y|x) || p(Y)) as ``sum_m w_m s_m - log Z``; float64 of shape (n,).

    It is the information that x carries about Y.
    """
    found = partition.s_exp / partition.exp - torch.log(partition.exp / partition.weight)
    return found.clamp(min=0.0)  # only rounding makes it negative


def reverse_kl(partition: RunningPartition, mean_logit: Tensor) -> Tensor:
    """Compute KL(p(Y) || p(Y|x)) as ``log Z - (1/M) sum_m s_m``; float64 of shape (n,).

    Parameters
    ----------
    partition : RunningPartition
    mean_logit : float64 Tensor of shape (n,)
        ``(1/M) sum_m s_m``, which follows from the mean of the references: see
        `moments.mean_logit`.
    """
    return partition.log_mean_exp() - mean_logit


def effective_sample_size(partition: RunningPartition) -> Tensor:
    """Compute ``1 / sum_m w_m^2``, the references that carry the conditional; float64 (n,)."""
    return partition.exp**2 / partition.exp_sq
