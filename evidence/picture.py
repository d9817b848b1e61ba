"""One picture: what a student learns from a subset, by its size and the rule that chose it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert

from evidence.report import Row, summary_rows
from evidence.stored import EVERYTHING, NO_TEACHER

# Rules to show, with colours that are readable on white and on black.
SHOWN = {
    "clean at random": "#8b949e",
    "similarity": "#e5793c",
    "log_ratio": "#3b8eea",
    "log-ratio-copies-last": "#1f9e6e",
    "kl_text": "#b565d8",
    "random": "#c9a227",
}
INK = "#7d8590"


class Panel(NamedTuple):
    """What one panel shows."""

    pool: str
    teacher: str
    title: str


def picture(rows: Sequence[Row], panels: Sequence[Panel]) -> str:
    """Draw accuracy against budget as SVG, with one panel beside the other."""
    summary = summary_rows(rows).to_pylist()
    charts = [_chart(summary, panel, n == 0) for n, panel in enumerate(panels)]
    grey = {"labelColor": INK, "titleColor": INK, "tickColor": INK, "domainColor": INK}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": None,
        "hconcat": charts,
        "config": {
            "font": "Helvetica, Arial, sans-serif",
            "view": {"stroke": None},
            "axis": {**grey, "gridColor": INK, "gridOpacity": 0.25},
            "legend": {"labelColor": INK, "titleColor": INK, "labelLimit": 260},
            "title": {"color": INK, "fontWeight": "normal"},
        },
    }
    drawn: str = vl_convert.vegalite_to_svg(spec)
    return drawn


def _chart(summary: list[dict[str, Any]], panel: Panel, first: bool) -> dict[str, Any]:
    ours = [r for r in summary if r["pool"] == panel.pool]
    ours = [r for r in ours if r["teacher"] in (panel.teacher, NO_TEACHER)]
    values = [{k: r[k] for k in ("rule", "budget", "mean")} for r in ours if r["rule"] in SHOWN]
    everything = [{"mean": r["mean"]} for r in ours if r["rule"] == EVERYTHING]
    colour = {
        "field": "rule",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(SHOWN), "range": list(SHOWN.values())},
        "legend": {"orient": "right"},
    }
    x = {
        "field": "budget",
        "type": "quantitative",
        "title": "share of the pool that is kept",
        "axis": {"format": "%", "values": sorted({v["budget"] for v in values})},
        "scale": {"nice": False, "padding": 12},
    }
    y = {
        "field": "mean",
        "type": "quantitative",
        "title": "zero-shot accuracy of a model trained on it" if first else None,
        "axis": {"format": "%"},
        "scale": {"zero": False},
    }
    line = {
        "data": {"values": values},
        "mark": {"type": "line", "point": {"size": 50}, "strokeWidth": 2},
        "encoding": {"x": x, "y": y, "color": colour},
    }
    rule = {
        "data": {"values": everything},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": INK},
        "encoding": {"y": {"field": "mean", "type": "quantitative"}},
    }
    label = {
        "data": {"values": [{**everything[0], "text": "the whole pool"}] if everything else []},
        "mark": {"type": "text", "align": "right", "dy": -7, "x": 180, "color": INK},
        "encoding": {
            "y": {"field": "mean", "type": "quantitative"},
            "text": {"field": "text"},
        },
    }
    title = {"text": panel.title, "anchor": "start", "fontSize": 12}
    return {"title": title, "width": 220, "height": 260, "layer": [line, rule, label]}


def save(rows: Sequence[Row], panels: Sequence[Panel], path: Path) -> None:
    """Write the picture."""
    path.write_text(picture(rows, panels), encoding="utf-8")
