"""Moments of a set of vectors, and the divergences' second-order readings from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and covariance of vectors; merges in any order.

    Attributes
    ----------
    count : int
    mean : float64 Tensor of shape (d,)
    covariance : float64 Tensor of shape (d, d)
        Divided by the count.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def empty(cls, d: int) -> Moments:
        """The moments of no vectors."""
        zeros = torch.zeros(d, d, dtype=torch.float64)
        return cls(0, zeros[0].clone(), zeros)

    @classmethod
    def of(cls, vectors: Tensor) -> Moments:
        """The moments of the rows of `vectors`, shape (n, d); products in their own dtype."""
        if not len(vectors):
            return cls.empty(vectors.shape[1])
        mean = vectors.mean(dim=0, dtype=torch.float64)
        centred = vectors - mean.to(vectors.dtype)
        return cls(len(vectors), mean, (centred.T @ centred).double() / len(vectors))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        if not count:
            return self
        first, second = self.count / count, other.count / count
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + second * apart,
            first * self.covariance
            + second * other.covariance
            + first * second * torch.outer(apart, apart),
        )


def covariance_norm(queries: Tensor, own: Moments, other: Moments, scale: float) -> Tensor:
    """D_W: ``a^2 (x - mean_X)^T Cov_Y (x - mean_X)``, float64 of shape (n,).

    Parameters
    ----------
    queries : Tensor of shape (n, d)
    own, other : Moments
        Of the pool's vectors of the queries' modality, and of the other one.
    scale : float
        The logit scale a.
    """
    centred = queries.double() - own.mean
    spread: Tensor = torch.linalg.vecdot(centred @ other.covariance, centred)
    return scale**2 * spread


def centred_norm(queries: Tensor, own: Moments, scale: float) -> Tensor:
    """D_C: ``a^2 ||x - mean_X||^2``, float64 of shape (n,)."""
    centred = queries.double() - own.mean
    spread: Tensor = torch.linalg.vecdot(centred, centred)
    return scale**2 * spread
