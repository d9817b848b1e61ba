"""What a page shows, as data for its scripts and as tables for its template."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdre.formats.folders.manifest import PROBABILITIES
from clipdre.looking.edges import Histogram
from clipdre.looking.look import KEPT_BY, View
from clipdre.looking.points import levels
from clipdre.looking.text import plain
from clipdre.words import count, operand, size

# Digits of values and of log ratios.
DIGITS = 5


def content(view: View) -> dict[str, Any]:
    """Return what the scripts draw, as JSON has it."""
    places = view.rows.places
    index = {place: n for n, place in enumerate(places.tolist())}
    nearest = view.counterparts.nearest
    return {
        "pool": view.query.manifest.rows,
        "folder": plain(operand(view.query.folder.store.name)),
        "joined": [plain(str(path)) for path in view.query.joined],
        "axes": [_axis(view, n) for n in range(len(view.histograms))],
        "selections": [
            {"name": plain(name), "kept": len(selection)}
            for name, selection in view.selections.items()
        ],
        "points": {
            "count": len(view.points),
            "levels": [
                _packed(levels(histogram.edges, values))
                for histogram, values in zip(view.histograms, view.points.values, strict=True)
            ],
            "kept": [_packed(np.packbits(mask, bitorder="little")) for mask in view.kept],
        },
        "rows": list(_rows(view)),
        "samples": [index[place] for place in view.samples.tolist()],
        "peers": {
            modality.value: [
                [[index[place], _number(ratio)] for place, ratio in zip(*own, strict=True)]
                for own in zip(found.places.tolist(), found.log_ratios.tolist(), strict=True)
            ]
            for modality, found in nearest.items()
        },
        "searched": view.counterparts.searched,
        "problem": view.counterparts.problem,
        "galleries": [
            {
                "title": plain(gallery.title),
                "note": plain(gallery.note),
                "by": plain(gallery.by),
                "rows": [index[place] for place in gallery.places.tolist()],
            }
            for gallery in view.galleries
        ],
    }


def tables(view: View) -> dict[str, Any]:
    """Return what the template writes."""
    manifest, summary = view.query.manifest, view.summary
    model = manifest.model
    failures = sum(manifest.failures.values())
    facts = [
        ("pairs", f"{manifest.rows:,}", f"of {count(manifest.samples, 'sample')}"),
        ("failed", f"{failures:,}", f"{failures / max(1, manifest.samples):.2%} of the samples"),
        ("shards", f"{len(manifest.shards):,}", size(sum(s.nbytes for s in manifest.shards))),
        ("mean log ratio", _shown(summary.mean_log_ratio) or "unknown", "nats"),
        ("reference", summary.reference.method, _reliability(view)),
        ("model", model.name, f"logit scale {model.logit_scale:.1f}, {model.precision}"),
    ]
    return {
        "facts": facts,
        "warnings": [*summary.caveats, *_problems(view)],
        "failures": view.failures,
        # A condition says nothing about a sample without scores.
        "blur_failures": view.blurring,
        "quantiles": summary.quantiles,
        "probabilities": [f"{100 * p:g}%" for p in PROBABILITIES],
        "reliability": manifest.pool_reliability,
        "shown": _shown,
        "selections": [
            {
                "name": plain(name),
                "kept": len(selection),
                "share": len(selection) / max(1, selection.pool),
                "steps": [
                    (plain(str(s.step)), s.before, s.kept, plain(s.cut)) for s in selection.steps
                ],
            }
            for name, selection in view.selections.items()
        ],
        "overlaps": list(_overlaps(view)),
        "words": {plain(title): ends for title, ends in view.words.items()},
        "kept_by": KEPT_BY,
        "languages": view.languages,
        "captions": len(view.points.captions),
        "matrix": _matrix(view),
        "version": manifest.clipdre_version,
    }


def _problems(view: View) -> Iterator[str]:
    if view.problem:
        yield f"images are missing: {view.problem}"
    if view.counterparts.problem:
        yield f"counterparts are missing: {view.counterparts.problem}"


def _reliability(view: View) -> str:
    if view.summary.is_exact:
        return "exact, no error"
    column, reliability = view.summary.least_reliable
    return f"reliability at least {_shown(reliability)} ({column})"


def _axis(view: View, n: int) -> dict[str, Any]:
    histogram = view.histograms[n]
    column = histogram.axis.column
    return {
        "label": plain(histogram.axis.label),
        "sql": column.name,
        "unit": column.unit,
        "meaning": plain(column.meaning),
        "better": column.better,
        "edges": histogram.edges,
        "pool": histogram.pool,
        "kept": histogram.kept,
        "missing": histogram.missing,
        "whole": histogram.axis.whole,
        "cuts": list(_cuts(view, histogram)),
    }


def _cuts(view: View, histogram: Histogram) -> Iterator[dict[str, Any]]:
    """Yield where selections cut through an axis."""
    for n, selection in enumerate(view.selections.values()):
        for counted in selection.steps:
            by = (counted.step.by or "").strip()
            if (
                by in (histogram.axis.column.name, histogram.axis.label)
                and counted.threshold is not None
            ):
                bottom = counted.step.bottom is not None
                yield {"selection": n, "value": counted.threshold, "bottom": bottom}


def _rows(view: View) -> Iterator[dict[str, Any]]:
    texts, images = view.rows.texts, view.images
    for n, place in enumerate(view.rows.places.tolist()):
        row = {name: own[n] for name, own in texts.items()}
        # Exactly, since they decide on which side of the line a pair is.
        values = [
            _exact(value, single=histogram.axis.single)
            for value, histogram in zip(view.rows.values[n].tolist(), view.histograms, strict=True)
        ]
        yield row | {
            "values": values,
            "image": images.get(place, ""),
            "blurred": bool(view.blurred[n]),
        }


def _overlaps(view: View) -> Iterator[tuple[str, str, int, float]]:
    """Yield pairs of selections, with the number of pairs of rows that both keep, and Jaccard."""
    for (a, b), (both, either) in view.overlaps.items():
        yield plain(a), plain(b), both, both / max(1, either)


def _matrix(view: View) -> dict[str, Any] | None:
    found = view.counterparts
    if not len(found.matrix_places):
        return None
    at = np.searchsorted(view.rows.places, found.matrix_places)
    captions = view.rows.texts.get("caption", [""] * len(view.rows.places))
    finite = np.nan_to_num(found.matrix)
    return {
        "images": [view.images.get(place, "") for place in found.matrix_places.tolist()],
        "blurred": [bool(view.blurred[n]) for n in at],
        "captions": [captions[n] for n in at],
        "values": found.matrix.tolist(),
        "highest": max(float(finite.max()), 1.0),
        "lowest": min(float(finite.min()), -1.0),
    }


def _packed(values: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _exact(value: float, *, single: bool) -> float | None:
    """Return a value by the fewest digits that tell it from its neighbours."""
    if not math.isfinite(value):
        return None
    return float(str(np.float32(value))) if single else value


def _shown(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"
