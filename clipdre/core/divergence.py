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


def kl_tau(partition: RunningPartition, log_tau: float) -> Tensor:
    """Compute `kl` with -log tau in place of log Z: ``sum_m w_m s_m + log tau``; float64 (n,).

    A model trained with tau negatives per positive by a sigmoid loss (SigLIP) estimates the density
    ratio by ``tau exp(s)`` itself, if it is perfect.
    """
    return partition.max + partition.s_exp / partition.exp + log_tau


def kl_tau_all(partition: RunningPartition, log_tau: float) -> Tensor:
    """Compute `kl` as ``(1/M) sum_m r_m log r_m`` with ``r = tau exp(s)``; float64 of shape (n,).

    The published code has ``log tau + b + (1/M) sum_m r_m a <x, y_m>`` instead: the same if the
    mean of r is 1.
    """
    return torch.exp(partition.log_mean_exp() + log_tau) * kl_tau(partition, log_tau)


def reverse_kl_tau(mean_logit: Tensor, log_tau: float) -> Tensor:
    """Compute `reverse_kl` with -log tau in place of log Z; float64 of shape (n,)."""
    return -log_tau - mean_logit


def effective_sample_size(partition: RunningPartition) -> Tensor:
    """Compute ``1 / sum_m w_m^2``, the references that carry the conditional; float64 (n,)."""
    return partition.exp**2 / partition.exp_sq
