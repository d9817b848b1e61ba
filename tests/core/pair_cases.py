"""Blocks of pairs over small pools."""

from __future__ import annotations

import numpy as np
import torch

from clipdre.core.modality import Modality
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.pairs import Pairs, Side
from clipdre.core.partition import RunningPartition
from clipdre.core.stratified import StratifiedPartition
from tests.core.oracle import Floats, clustered_pool

N, D, SCALE, BIAS = 60, 16, 20.0, -3.0
FOLDS, NEAR = 4, 12


def small_pool() -> tuple[Floats, Floats]:
    """Draw 60 matching pairs of unit vectors."""
    return clustered_pool(seed=3, n=N, d=D, noise=0.7)


def _pairs(images: Floats, texts: Floats, partition, tau: int | None) -> Pairs:
    """Build pairs; `partition` maps logits and the modality of the queries to a partition."""
    vectors = {Modality.IMAGE: torch.from_numpy(images), Modality.TEXT: torch.from_numpy(texts)}
    moments = {modality: Moments.of(rows) for modality, rows in vectors.items()}
    own = SCALE * (vectors[Modality.IMAGE] * vectors[Modality.TEXT]).sum(dim=1) + BIAS
    everyone = torch.ones(len(images), dtype=torch.bool)
    sides = {}
    for modality, queries in vectors.items():
        other = modality.other
        logits = SCALE * queries @ vectors[other].T + BIAS
        mean = mean_logit(queries, moments[other], SCALE, BIAS, own, everyone)
        args = partition(logits, modality), mean, moments[modality], moments[other], SCALE
        sides[modality] = Side(queries, own, *args)
    return Pairs(own, sides, len(images), tau)


def by_half(logits, left_out) -> RunningPartition:
    """Partition each half of the references, those of even and odd index; shape (n, 2)."""
    parts = [(logits[:, half::2].clone(), left_out[:, half::2]) for half in range(2)]
    return RunningPartition.stack([RunningPartition.of(*part) for part in parts])


def exact_pairs(images: Floats, texts: Floats, tau: int | None = None) -> Pairs:
    """Return pairs against all others."""

    def partition(logits, modality):
        n = len(logits)
        near = by_half(logits, torch.eye(n, dtype=torch.bool))
        return StratifiedPartition(near, RunningPartition.empty(n, 0), torch.zeros(n, 2).double())

    return _pairs(images, texts, partition, tau)


def near_mask(logits: np.ndarray) -> np.ndarray:
    """Mask the largest logits of each query, its own counterpart left out."""
    left = np.where(np.eye(len(logits), dtype=bool), -np.inf, logits)
    return left >= np.sort(left, axis=1)[:, [-NEAR]]


def bulk_folds(modality: Modality) -> np.ndarray:
    """Indices of the bulk, shape (folds, members); another bulk for each modality.

    The first half of the folds are of even indices, the others of odd ones.
    """
    drawn = np.random.default_rng(len(modality.value)).permutation(N)
    return np.concatenate([drawn[drawn % 2 == half][:16] for half in (0, 1)]).reshape(FOLDS, -1)


def sampled_pairs(images: Floats, texts: Floats) -> Pairs:
    """Return pairs against the nearest counterparts and a bulk in folds."""

    def partition(logits, modality):
        n = len(logits)
        own, near = torch.eye(n, dtype=torch.bool), torch.from_numpy(near_mask(logits.numpy()))
        bulk = torch.from_numpy(bulk_folds(modality))
        folds = RunningPartition.of(logits[:, bulk].clone(), (near | own)[:, bulk])
        rest = (~near & ~own).view(n, -1, 2).sum(dim=1).double()
        return StratifiedPartition(by_half(logits, ~near), folds, rest)

    return _pairs(images, texts, partition, None)
