"""Groups of pairs that leave each other out of their references, numbered for a pool.

A pair's own counterpart is always left out, so every pair has a group, most of them alone. Groups
of several pairs are numbered from 0, those of a single pair follow: `lone(row, half)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.stratified import HALVES

Ints = npt.NDArray[np.int64]
# A query that leaves nobody out: it is from another pool.
NOBODY = -1


def half_of(hashes: npt.NDArray[np.uint64]) -> Ints:
    """Return the half of the pool that each key hash is in, 0 or 1.

    The last bit decides. The order of hashes, which draws samples, is decided by the first ones.
    """
    return (hashes & np.uint64(1)).astype(np.int64)


def united(leaders: Ints, samples: Ints) -> Ints:
    """Return leaders of the groups that unite pairs of one leader with those of one sample.

    Captions of one image are all its own, so they leave each other out as copies do.

    Parameters
    ----------
    leaders : int64 array of shape (n,)
        The row that leads each row's group of alike pairs.
    samples : int64 array of shape (n,)
        Number of each row's sample, below n.

    Returns
    -------
    int64 array of shape (n,)
    """
    found = leaders
    while True:
        smallest = np.full(len(leaders), len(leaders))
        np.minimum.at(smallest, samples, found)
        lower = smallest[samples]
        smallest = np.full(len(leaders), len(leaders))
        np.minimum.at(smallest, leaders, lower)
        lower = smallest[leaders]
        if np.array_equal(lower, found):
            return found
        found = lower


@dataclass(frozen=True)
class Groups:
    """Groups of a pool.

    Attributes
    ----------
    of_rows : int64 array of shape (n,)
        Group of each row.
    counts : int64 array of shape (g, 2)
        Size of each group of several pairs, by half of the pool.
    """

    of_rows: Ints
    counts: Ints

    @classmethod
    def led_by(cls, leaders: Ints, halves: Ints) -> Groups:
        """Number groups from the row that leads each row's group, and from each row's half."""
        several = np.bincount(leaders, minlength=len(leaders)) > 1
        heads, grouped = np.flatnonzero(several), np.flatnonzero(several[leaders])
        # In place: a pool has more rows than memory has room for many such arrays.
        of_rows = np.arange(len(heads), len(heads) + HALVES * len(leaders), HALVES)
        of_rows += halves
        of_rows[grouped] = np.searchsorted(heads, leaders[grouped])
        counts = np.zeros((len(heads), HALVES), np.int64)
        np.add.at(counts, (of_rows[grouped], halves[grouped]), 1)
        return cls(of_rows, counts)


def check_groups(groups: Ints, halves: Ints, counts: Ints) -> None:
    """Raise ValueError unless the groups of a pool's rows, in any order, have these sizes.

    Parameters
    ----------
    groups, halves : int64 arrays of shape (n,)
        Group and half of each row.
    counts : int64 array of shape (g, 2)
        See `Groups`.
    """
    grouped = groups < len(counts)
    alone = groups[~grouped]
    if (groups < 0).any() or ((alone - len(counts)) % HALVES != halves[~grouped]).any():
        raise ValueError("its pairs are of no group")
    if len(np.unique(alone)) < len(alone):
        raise ValueError("pairs share a group of a single pair")
    several = HALVES * groups[grouped] + halves[grouped]
    if not np.array_equal(np.bincount(several, minlength=counts.size), counts.ravel()):
        raise ValueError("its groups have other sizes")


def left_out(groups: Tensor, counts: Tensor) -> Tensor:
    """Return how many pairs each query leaves out, by half of the pool.

    Parameters
    ----------
    groups : int64 Tensor of shape (n,)
        Group of each query, or `NOBODY`.
    counts : int64 Tensor of shape (g, 2)
        See `Groups`.

    Returns
    -------
    int64 Tensor of shape (n, 2)
    """
    half = torch.where(groups == NOBODY, NOBODY, (groups - len(counts)) % HALVES)
    alone = torch.stack([(half == k).long() for k in range(HALVES)], dim=1)
    if not len(counts):
        return alone
    several = (groups != NOBODY) & (groups < len(counts))
    return torch.where(several[:, None], counts[groups.clamp(0, len(counts) - 1)], alone)
