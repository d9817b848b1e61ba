"""Cells of a reference, and which of them a query needs exactly.

A cell's members scatter around its centroid, so their logits around ``a <x, mu_c>``; with variance
``a^2 v_c`` of the logits within it, its expected mass is

    log sum_{m in c} e^{s_m}  ~  log n_c + a <x, mu_c> + a^2 v_c / 2

A query takes the cells that may hold more than ``e^-margin`` of its total. The rule looks at one
query only, so the choice does not depend on what else is in its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """What predicts the mass of each cell.

    Attributes
    ----------
    centroids : float32 Tensor of shape (c, d)
        Mean of each cell's members.
    counts : int64 Tensor of shape (c,)
    variances : float32 Tensor of shape (c,)
        Mean over dimensions of the members' variance.
    """

    centroids: Tensor
    counts: Tensor
    variances: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device) -> Cells:
        """The same cells on a device."""
        return Cells(*(getattr(self, f.name).to(device) for f in fields(self)))

    def of_places(self, places: Tensor) -> Tensor:
        """Cell of each place in a pool that lies cell behind cell; int64, the shape of `places`."""
        return torch.searchsorted(torch.cumsum(self.counts, dim=0), places, right=True)

    def log_mass(self, queries: Tensor, scale: float) -> Tensor:
        """Expected log mass of each cell, up to the logit bias: (n, d) to (n, c), in nats."""
        spread = 0.5 * scale**2 * self.variances
        level = torch.log(self.counts.clamp(min=1)) + spread
        level = torch.where(self.counts == 0, float("-inf"), level)
        return torch.addmm(level, queries, self.centroids.T, alpha=scale)

    def near(self, queries: Tensor, scale: float, margin: float) -> Tensor:
        """Mask (n, c) of the cells that each query takes; the most massive one always."""
        mass = self.log_mass(queries, scale)
        chosen = mass > mass.logsumexp(dim=1, keepdim=True) - margin
        return chosen.scatter_(1, mass.argmax(dim=1, keepdim=True), True)
