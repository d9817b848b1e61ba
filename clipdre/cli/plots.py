"""Pictures, where people would rather look than read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from clipdre.stages.demo import Agreement


def plot_agreement(agreements: Sequence[Agreement], path: Path) -> None:
    """Estimated against true, one panel per score, with the line on which both are equal."""
    figure = Figure(figsize=(4 * len(agreements), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for agreement, axes in zip(
        agreements, np.atleast_1d(figure.subplots(1, len(agreements))), strict=True
    ):
        low = min(agreement.true.min(), agreement.estimated.min())
        high = max(agreement.true.max(), agreement.estimated.max())
        axes.scatter(agreement.true, agreement.estimated, s=4, alpha=0.15, linewidths=0)
        axes.plot([low, high], [low, high], color="black", linewidth=0.8)
        axes.set_title(f"{agreement.column}: Pearson {agreement.pearson:.3f}", fontsize=11)
        axes.set_xlabel("true (nats)")
        axes.set_ylabel("estimated (nats)")
        axes.set_box_aspect(1)
    figure.savefig(path, dpi=110)
