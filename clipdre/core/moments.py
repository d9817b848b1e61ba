"""Moments of a set of vectors, and the second-order approximations of the divergences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and covariance of a set of vectors; sets merge in any order.

    Attributes
    ----------
    count : int
    mean : float64 Tensor of shape (d,)
    covariance : float64 Tensor of shape (d, d)
        Normalized by the count.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def empty(cls, d: int) -> Moments:
        """Return the moments of an empty set."""
        zeros = torch.zeros(d, d, dtype=torch.float64)
        return cls(0, zeros[0].clone(), zeros)

    @classmethod
    def of(cls, vectors: Tensor) -> Moments:
        """Compute the moments of rows, shape (n, d), with products in the dtype of `vectors`."""
        if not len(vectors):
            return cls.empty(vectors.shape[1])
        mean = vectors.mean(dim=0, dtype=torch.float64)
        centred = vectors - mean.to(vectors.dtype)
        return cls(len(vectors), mean, (centred.T @ centred).double() / len(vectors))

    @classmethod
    def union(cls, counts: Tensor, means: Tensor, covariances: Tensor) -> Moments:
        """Return the moments of the union of m sets.

        Parameters
        ----------
        counts : float64 Tensor of shape (m,)
        means : float64 Tensor of shape (m, d)
        covariances : float64 Tensor of shape (m, d, d)
        """
        total = counts.sum()
        shares = counts / total.clamp(min=1)
        mean = shares @ means
        apart = means - mean
        spread = covariances + apart[:, :, None] * apart[:, None, :]
        return cls(int(total), mean, torch.einsum("m,mij->ij", shares, spread))

    def to(self, device: torch.device) -> Moments:
        """Return the moments on a device."""
        return Moments(self.count, self.mean.to(device), self.covariance.to(device))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the union (Chan, Golub and LeVeque, 1983)."""
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


def mean_logit(  # noqa: PLR0913 (the symbols of a formula)
    queries: Tensor, other: Moments, scale: float, bias: float, total: Tensor, left_out: Tensor
) -> Tensor:
    """Compute the mean logit ``a <x, mean_Y> + b`` without those left out; float64 of shape (n,).

    Parameters
    ----------
    queries : Tensor of shape (n, d)
    other : Moments
        Moments of the other modality.
    scale, bias : float
        Logit scale a and logit bias b.
    total : float64 Tensor of shape (n,)
        Sum of each query's logits with the counterparts that are left out of `other`.
    left_out : Tensor of shape (n,)
        Their number.
    """
    mean = scale * (queries @ other.mean.to(queries.dtype)).double() + bias
    return (other.count * mean - total) / (other.count - left_out.double())


def covariance_norm(queries: Tensor, own: Moments, other: Moments, scale: float) -> Tensor:
    """Compute D_W, ``a^2 (x - mean_X)^T Cov_Y (x - mean_X)``; float64 of shape (n,).

    Parameters
    ----------
    queries : Tensor of shape (n, d)
        Products are computed in this dtype.
    own, other : Moments
        Moments of the pool's vectors in the queries' modality, and in the other.
    scale : float
        Logit scale a.
    """
    centred = queries - own.mean.to(queries.dtype)
    spread: Tensor = torch.linalg.vecdot(centred @ other.covariance.to(queries.dtype), centred)
    return scale**2 * spread.double()


def centred_norm(queries: Tensor, own: Moments, scale: float) -> Tensor:
    """Compute D_C, ``a^2 ||x - mean_X||^2``, in the dtype of `queries`; float64 of shape (n,)."""
    length: Tensor = torch.linalg.vector_norm(queries - own.mean.to(queries.dtype), dim=1)
    return scale**2 * length.double() ** 2
