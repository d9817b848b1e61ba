"""Importance weights of pairs for a target that a prompt describes.

A contrastive model estimates ``p(i|prompt) / p(i)`` up to a factor, by ``exp(a <v_i, v_prompt>)``;
as the weight of a pair it turns the pool into a sample of what the prompt describes (Uchiyama et
al., CVPR 2026, importance-weighted learning).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mixture(images: Tensor, prompts: Tensor, scale: float) -> Tensor:
    """``log (1/k) sum_j exp(a <v_i, v_j>)``: (n, d) and (k, d) unit rows to float64 (n,)."""
    logits = scale * (images.double() @ prompts.double().T)
    return torch.logsumexp(logits, dim=1) - math.log(len(prompts))


def importance_weights(log_target: Tensor, log_avoided: Tensor | None = None) -> Tensor:
    """Weights proportional to ``exp(log_target - log_avoided)``, of mean 1; float64 of shape (n,).

    Parameters
    ----------
    log_target, log_avoided : float64 Tensors of shape (n,)
        Of `log_mixture`, over the whole pool.
    """
    log_weight = log_target if log_avoided is None else log_target - log_avoided
    return torch.exp(log_weight - torch.logsumexp(log_weight, dim=0) + math.log(len(log_weight)))


def weights_sample_size(weights: Tensor) -> float:
    """``(sum w)^2 / sum w^2``: how many pairs of equal weight would say as much."""
    return float(weights.sum() ** 2 / (weights**2).sum())
