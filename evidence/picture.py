"""One picture: what a student learns from a subset, by its size and the rule that chose it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from evidence.report import Row, summary_rows

# Rules to show, with colours that are readable on white and on black.
SHOWN = {
    "clean at random": "#8b949e",
    "similarity": "#e5793c",
    "log_ratio": "#3b8eea",
    "log-ratio-then-kl, with copies": "#1f9e6e",
    "kl_text": "#b565d8",
    "random": "#6e7781",
}
INK = "#7d8590"
EVERYTHING = "everything"


def picture(rows: Sequence[Row], panels: Sequence[tuple[str, str]]) -> str:
    """Draw accuracy against budget as SVG, a panel for each pool and teacher of `panels`."""
    summary = summary_rows(rows).to_pylist()
    charts = [_panel(summary, pool, teacher, n == 0) for n, (pool, teacher) in enumerate(panels)]
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


def _panel(summary: list[dict[str, Any]], pool: str, teacher: str, first: bool) -> dict[str, Any]:
    ours = [r for r in summary if r["pool"] == pool and r["teacher"] in (teacher, "none")]
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
        "mark": {"type": "text", "align": "left", "dy": -7, "x": 4, "color": INK},
        "encoding": {
            "y": {"field": "mean", "type": "quantitative"},
            "text": {"field": "text"},
        },
    }
    title = f"pool {pool}, scored by {teacher}"
    return {"title": title, "width": 300, "height": 280, "layer": [line, rule, label]}


def save(rows: Sequence[Row], panels: Sequence[tuple[str, str]], path: Path) -> None:
    """Write the picture."""
    path.write_text(picture(rows, panels), encoding="utf-8")
