"""A summary of a score folder as tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from clipdre.cli.terminal import note, table
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.reporting.summary import Summary


def show_summary(found: Summary, folder: Path, *, stdout: bool = False) -> None:
    """Print samples, failures by reason, and quantiles of the main scores."""
    from clipdre.reporting.summary import PROBABILITIES

    manifest, model = found.manifest, found.manifest.model
    failed = sum(found.failures.values())
    reasons = [(f"  {reason}", f"{count:,}") for reason, count in found.failures.items()]
    table(
        f"{count(manifest.samples, 'sample')} in {count(len(manifest.shards), 'shard')}",
        ("", "samples"),
        [("scored", f"{manifest.rows:,}"), ("failed", f"{failed:,}"), *reasons],
        stdout=stdout,
    )
    table(
        "Scores (quantiles over the pool; nats, similarity is a cosine)",
        ("score", *(f"{p:.0%}" for p in PROBABILITIES)),
        [(name, *(f"{v:.3f}" for v in values)) for name, values in found.quantiles.items()],
        stdout=stdout,
    )
    note(
        f"mean log ratio of the pool: {found.mean_log_ratio:.3f} nats ({model.name}, "
        f"{model.precision}, logit scale {model.logit_scale:.1f}; {found.reference.method} "
        f"reference of {count(found.reference.pairs, 'pair')})",
        stdout=stdout,
    )
    for line in _reliability(found, folder):
        note(line, stdout=stdout)
    if failed:
        note(f"reasons for each failed sample: {folder}/failures/", stdout=stdout)


def _reliability(found: Summary, folder: Path) -> list[str]:
    """Return what the reference leaves uncertain, in one or two lines."""
    if found.is_exact:
        return ["error of the reference: none, every score is exact for this pool"]
    name, reliability = found.least_reliable
    least = math.floor(1000 * reliability) / 1000
    lines = [
        f"reliability of the reference: at least {least:.3f} ({name}); "
        f"'clipdre reference {folder}' lists all columns and checks them against exact"
    ]
    if found.reference.method == "sample":
        lines.append(
            "the claimed errors of a uniform sample are not reliable: another draw would give "
            "other scores; use --reference stratified or exact"
        )
    return lines
