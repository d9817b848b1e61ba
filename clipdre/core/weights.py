"""Importance weights of pairs for a target that prompts describe.

A contrastive model estimates ``p(i|prompt) / p(i)`` as ``exp(a <v_i, v_prompt>)``, up to a factor.
Weighting each pair by this ratio turns the pool into a sample of what the prompt describes
(Uchiyama et al., CVPR 2026, importance-weighted learning).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mixture(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """Compute ``log (1/k) sum_j exp(a <v_i, v_j>)`` of unit rows: (n, d) and (k, d) to (n,)."""
    logits = scale * (images.double() @ prompts.double().T)
    return torch.logsumexp(logits, dim=1) - math.log(len(prompts))


def importance_weights(log_target: Tensor, log_avoided: Tensor | None = None) -> Tensor:
    """Compute weights with mean 1 from ``exp(log_target - log_avoided)``; float64 of shape (n,).

    Parameters
    ----------
    log_target, log_avoided : float64 Tensors of shape (n,)
        Results of `log_mixture` over the whole pool.
    """
    log_weight = log_target if log_avoided is None else log_target - log_avoided
    return torch.exp(log_weight - torch.logsumexp(log_weight, dim=0) + math.log(len(log_weight)))


def weights_sample_size(weights: Tensor) -> float:
    """Compute ``(sum w)^2 / sum w^2``, the equivalent number of equally weighted pairs."""
    return float(weights.sum() ** 2 / (weights**2).sum())
