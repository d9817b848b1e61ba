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

    def to(self, device: torch.device) -> Moments:
        """The same moments on a device."""
        return Moments(self.count, self.mean.to(device), self.covariance.to(device))

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


def mean_logit(
    queries: Tensor, other: Moments, scale: float, bias: float, own: Tensor, left_out: Tensor
) -> Tensor:
    """``a <x, mean_Y> + b``, own counterparts left out: the mean logit, float64 of shape (n,).

    Parameters
    ----------
    queries : Tensor of shape (n, d)
    other : Moments
        Of the other modality.
    own : float64 Tensor of shape (n,)
        Logit of each query with its own counterpart.
    left_out : bool Tensor of shape (n,)
        Whether that counterpart is among those of `other`.
    """
    mean = scale * (queries @ other.mean.to(queries.dtype)).double() + bias
    total = other.count * mean - torch.where(left_out, own, 0.0)
    return total / (other.count - left_out.double())


def covariance_norm(queries: Tensor, own: Moments, other: Moments, scale: float) -> Tensor:
    """D_W: ``a^2 (x - mean_X)^T Cov_Y (x - mean_X)``, float64 of shape (n,).

    Parameters
    ----------
    queries : Tensor of shape (n, d)
        Its dtype is the products'.
    own, other : Moments
        Of the pool's vectors of the queries' modality, and of the other one.
    scale : float
        The logit scale a.
    """
    centred = queries - own.mean.to(queries.dtype)
    spread: Tensor = torch.linalg.vecdot(centred @ other.covariance.to(queries.dtype), centred)
    return scale**2 * spread.double()


def centred_norm(queries: Tensor, own: Moments, scale: float) -> Tensor:
    """D_C: ``a^2 ||x - mean_X||^2``, float64 of shape (n,), from the queries' own dtype."""
    length: Tensor = torch.linalg.vector_norm(queries - own.mean.to(queries.dtype), dim=1)
    return scale**2 * length.double() ** 2
