"""Raking: weights of cells that give a table the marginals that are asked for.

Iterative proportional fitting (Deming and Stephan, 1940): of all weights that meet the targets, the
ones nearest to equal weights, in relative entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ROUNDS, CLOSE = 1000, 1e-9
Floats = npt.NDArray[np.float64]


class Marginal(NamedTuple):
    """What one grouping of the cells shall add up to.

    Attributes
    ----------
    group : int64 array of shape (m,)
        Group of each cell, from 0.
    shares : float64 array of shape (number of groups,)
        Shares of the groups, with sum 1.
    """

    group: npt.NDArray[np.int64]
    shares: Floats


def rake(counts: Floats, marginals: Sequence[Marginal]) -> tuple[Floats, float]:
    """Weigh cells so that their groups have given shares.

    Parameters
    ----------
    counts : float64 array of shape (m,)
        Size of each cell, positive.
    marginals : sequence of Marginal

    Returns
    -------
    float64 array of shape (m,)
        Weight of a member of each cell, with mean 1 over all members.
    float
        Largest difference between a share and what was reached: near 0 unless the marginals
        contradict each other, or a group that should have a share has no members.
    """
    mass = counts / counts.sum()
    for _ in range(ROUNDS):
        for group, shares in marginals:
            reached = np.bincount(group, mass, len(shares))
            factors = np.divide(shares, reached, out=np.zeros_like(shares), where=reached > 0)
            mass = mass * factors[group]
        error = max((_error(mass, marginal) for marginal in marginals), default=0.0)
        if error < CLOSE:
            break
    total = mass.sum()
    return mass * counts.sum() / counts / (total if total > 0 else 1.0), error


def _error(mass: Floats, marginal: Marginal) -> float:
    reached = np.bincount(marginal.group, mass, len(marginal.shares))
    return float(np.abs(reached - marginal.shares).max())
