"""How near a cell has to be, in nats, for its members to be compared one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from clipdre.core.cells import Cells
from clipdre.formats.folders.records import NearRecord, ReferenceRecord

# Largest root mean square share of a query's mass outside its near cells; the bulk stands for it,
# with an error.
MISSED = 0.002
MARGINS = tuple(float(margin) for margin in range(2, 61))
# Extra nats: held-out queries are too few to show rare misses.
SAFETY = 2.0


def smallest_margin(
    queries: Tensor, cells: Cells, mass: Tensor, record: ReferenceRecord
) -> NearRecord:
    """Choose the margin from the exact share of each query's mass in each cell, shape (n, c)."""

    def measured(margin: float) -> tuple[NearRecord, float]:
        near = cells.near(queries, record.logit_scale, margin)
        share = float((near.double() @ cells.counts.double()).mean()) / record.pairs
        missed = torch.where(near, 0.0, mass).sum(dim=1)
        found = NearRecord(
            cells=len(cells), margin=margin, mass=1 - float(missed.mean()), share=share
        )
        return found, float((missed**2).mean()) ** 0.5

    found = [measured(margin) for margin in MARGINS]
    enough = next((n for n, missed in found if missed <= MISSED), found[-1][0])
    asked = next((n for n, _ in found if n.share * record.pairs >= record.neighbors), found[-1][0])
    return measured(max(enough.margin + SAFETY, asked.margin))[0]
