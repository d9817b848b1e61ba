"""How many directions a set of vectors varies in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Diversity(NamedTuple):
    """Effective numbers of directions; both are between 1 and the vectors' length.

    Attributes
    ----------
    effective_rank : float
        Exponential of the entropy of the covariance's normalized eigenvalues (Roy and Vetterli,
        2007).
    participation_ratio : float
        Squared sum of the eigenvalues over the sum of their squares: rare directions count less.
    """

    effective_rank: float
    participation_ratio: float


def diversity(covariance: Tensor) -> Diversity:
    """Compute the diversity of vectors from their covariance, float64 of shape (d, d).

    Vectors that do not vary have a diversity of 0.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=torch.finfo(torch.float64).tiny)
    if not shares.any():
        return Diversity(0.0, 0.0)
    entropy = torch.special.entr(shares).sum()
    return Diversity(float(entropy.exp()), float(1 / (shares**2).sum()))
