"""Figures for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: estimates of a column against expected values.

    Attributes
    ----------
    column : str
        Name of the column.
    against : str
        Name of the expected values, for the axis label.
    expected, estimated : float64 arrays of shape (n,)
        Values in nats.
    """

    column: str
    against: str
    expected: npt.NDArray[np.float64]
    estimated: npt.NDArray[np.float64]


def plot_agreement(panels: Sequence[Panel], path: Path) -> None:
    """Plot estimated against expected values, one panel each, with the line of equality."""
    figure = Figure(figsize=(4 * len(panels), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, axes in zip(panels, np.atleast_1d(figure.subplots(1, len(panels))), strict=True):
        low = min(panel.expected.min(), panel.estimated.min())
        high = max(panel.expected.max(), panel.estimated.max())
        axes.scatter(panel.expected, panel.estimated, s=4, alpha=0.15, linewidths=0)
        axes.plot([low, high], [low, high], color="black", linewidth=0.8)
        pearson = np.corrcoef(panel.expected, panel.estimated)[0, 1]
        axes.set_title(f"{panel.column}: Pearson {pearson:.3f}", fontsize=11)
        axes.set_xlabel(f"{panel.against} (nats)")
        axes.set_ylabel("estimated (nats)")
        axes.set_box_aspect(1)
    figure.savefig(path, dpi=110)
