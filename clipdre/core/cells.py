"""Cells of a reference, and the choice of cells that a query needs exactly.

Members of a cell scatter around its centroid, so their logits scatter around ``a <x, mu_c>``. If
logits within the cell have variance ``a^2 |x|^2 v_c``, its expected mass is

    log sum_{m in c} e^{s_m}  ~  log n_c + a <x, mu_c> + a^2 |x|^2 v_c / 2

A query takes the cells that may hold more than ``e^-margin`` of its total mass. The rule looks at
one query at a time, so the choice does not depend on the rest of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """Statistics that predict the mass of each cell.

    Attributes
    ----------
    centroids : float32 Tensor of shape (c, d)
        Mean of each cell's members.
    counts : int64 Tensor of shape (c,)
        Members of each cell.
    variances : float32 Tensor of shape (c,)
        Variance of each cell's members, averaged over dimensions.
    """

    centroids: Tensor
    counts: Tensor
    variances: Tensor

    @classmethod
    def of(cls, counts: Tensor, sums: Tensor, squares: Tensor) -> Cells:
        """Return cells of sums of their members, float64 of shape (c, d), and of their squares."""
        filled = counts.clamp(min=1)
        centroids = sums / filled[:, None]
        variances = (squares / filled - (centroids**2).sum(dim=1)).clamp(min=0) / sums.shape[1]
        return cls(centroids.float(), counts, variances.float())

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device) -> Cells:
        """Return the cells on a device."""
        return Cells(*(getattr(self, f.name).to(device) for f in fields(self)))

    def of_places(self, places: Tensor) -> Tensor:
        """Return the cell of each place in a pool sorted by cell; int64, same shape as `places`."""
        return torch.searchsorted(torch.cumsum(self.counts, dim=0), places, right=True)

    def log_mass(self, queries: Tensor, scale: float) -> Tensor:
        """Return cells' expected log mass without the logit bias: (n, d) to (n, c), in nats."""
        level = torch.log(self.counts)  # -inf for empty cells
        squares = queries.square().sum(dim=1, keepdim=True)
        # Centroids and variances in one product.
        extended = torch.cat([queries, scale / 2 * squares], dim=1)
        cells = torch.cat([self.centroids, self.variances[:, None]], dim=1)
        return torch.addmm(level, extended, cells.T, alpha=scale)

    def near(self, queries: Tensor, scale: float, margin: float) -> Tensor:
        """Return a mask (n, c) of the cells that each query takes, always including the largest."""
        mass = self.log_mass(queries, scale)
        chosen = mass > mass.logsumexp(dim=1, keepdim=True) - margin
        return chosen.scatter_(1, mass.argmax(dim=1, keepdim=True), True)


def nearest(vectors: Tensor, centroids: Tensor, count: int = 1) -> Tensor:
    """Return the indices of the nearest `count` centroids of each row, int64 of shape (n, count).

    One matrix product suffices: a faiss index, built for many neighbours, takes six times as long.
    """
    half_squares = centroids.square().sum(dim=1) / 2
    # The nearest centroid c minimizes |x - c|^2, and so maximizes <x, c> - |c|^2 / 2.
    return torch.addmm(half_squares, vectors, centroids.T, beta=-1).topk(count, dim=1).indices
