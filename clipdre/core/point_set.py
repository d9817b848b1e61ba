"""Similarity of weighted point sets, exactly and as an inner product of explicit vectors.

A sample is a set of points ``x_i`` of length 1 with weights ``w_i``, which may be negative. Two
sets are as similar as the mean over their pairs of points of

    w_i w'_j (.667 <x_i, y_j> + .333 exp(-|x_i - y_j|^2 / (2 x .5^2)))

(Uesaka et al., Weighted Point Set Embedding, ICLR 2025, arXiv 2404.19228). The Gaussian is the
expectation of ``cos <u, x - y>`` over random u (Rahimi and Recht, 2007), so some fixed u make the
similarity an inner product of one vector per set.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LINEAR, GAUSSIAN, WIDTH = 0.667, 0.333, 0.5
LARGEST_WEIGHT = 100.0


class PointSets(NamedTuple):
    """Sets of m weighted points each.

    Attributes
    ----------
    weights : float Tensor of shape (n, m)
    points : float Tensor of shape (n, m, d)
        Of length 1.
    """

    weights: Tensor
    points: Tensor


def point_sets(features: Tensor, points: int) -> PointSets:
    """Read the features of n samples as sets of points: (n, f) with f = points (1 + d).

    The first feature of each point is its weight, which is bounded smoothly; the others are its
    direction.
    """
    parts = features.reshape(len(features), points, -1)
    weights = LARGEST_WEIGHT * torch.tanh(parts[..., 0] / LARGEST_WEIGHT)
    return PointSets(weights, torch.nn.functional.normalize(parts[..., 1:], dim=-1))


def similarity(first: PointSets, second: PointSets) -> Tensor:
    """Compute the similarity of every set with every other one: n and k sets to (n, k)."""
    cosines = first.points.flatten(0, 1) @ second.points.flatten(0, 1).T
    # Points have length 1, so |x - y|^2 is 2 - 2 <x, y>.
    kernel = LINEAR * cosines + GAUSSIAN * torch.exp((cosines - 1) / WIDTH**2)
    weighed = kernel * first.weights.flatten()[:, None] * second.weights.flatten()
    shape = (*first.weights.shape, *second.weights.shape)
    found: Tensor = weighed.view(shape).mean(dim=(1, 3))
    return found


def frequencies(d: int, count: int, seed: int) -> Tensor:
    """Draw the random u of the Gaussian: float32 of shape (count, d), the same for one seed.

    They are orthogonal in blocks of d, which approximates better than independent ones (Yu et al.,
    Orthogonal Random Features, 2016).
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(-(-count // d), d, d, generator=generator, dtype=torch.float64)
    lengths = torch.randn(len(blocks), d, d, generator=generator, dtype=torch.float64).norm(dim=2)
    directions: Tensor = torch.linalg.qr(blocks).Q
    drawn: Tensor = (directions * lengths[..., None]).flatten(0, 1)[:count].float() / WIDTH
    return drawn


def explicit(sets: PointSets, u: Tensor) -> Tensor:
    """Compute the vector of each set, whose inner products approximate `similarity`.

    Parameters
    ----------
    sets : PointSets
        n sets of points of length d.
    u : float Tensor of shape (k, d)
        See `frequencies`. Errors shrink as ``1 / sqrt(k)``.

    Returns
    -------
    float Tensor of shape (n, d + 2 k)
    """
    weights = sets.weights / sets.weights.shape[1]
    angles = sets.points @ u.T
    waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1) * (GAUSSIAN / len(u)) ** 0.5
    every = torch.cat([LINEAR**0.5 * sets.points, waves], dim=-1)
    vectors: Tensor = torch.einsum("nm,nmd->nd", weights, every)
    return vectors
