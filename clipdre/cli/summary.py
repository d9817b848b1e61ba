"""A summary of a score folder as tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from clipdre.cli.terminal import note, table
from clipdre.core.reliability import TRUSTED_POOL
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
        "Scores (quantiles over the pool; nats, similarity is a cosine; pool: correlation of a "
        "score between two halves of it)",
        ("score", *(f"{p:.0%}" for p in PROBABILITIES), "pool"),
        [
            (name, *(f"{v:.3f}" for v in values), _share(manifest.pool_reliability.get(name)))
            for name, values in found.quantiles.items()
        ],
        stdout=stdout,
    )
    note(
        f"mean log ratio of the pool: {found.mean_log_ratio:.3f} nats ({model.name}, "
        f"{model.precision}, logit scale {model.logit_scale:.1f}; {found.reference.method} "
        f"reference of {count(found.reference.pairs, 'pair')})",
        stdout=stdout,
    )
    if found.information is not None:
        limit = f"where this pool can show at most log N = {math.log(max(manifest.rows, 1)):.2f}"
        shown = f"at least {found.information:.2f} nats, {limit} (InfoNCE)"
        if not found.information > 0:
            shown = f"not shown by this pool (InfoNCE's bound is {found.information:.2f} nats)"
        note(f"mutual information of images and captions: {shown}", stdout=stdout)
    warnings = [f"warning: {text}" for text in found.caveats]
    for line in [*_reliability(found, folder), *_duplicates(found), *warnings]:
        note(line, stdout=stdout)
    if failed:
        note(f"reasons for each failed sample: {folder}/failures/", stdout=stdout)


def _share(value: float | None) -> str:
    return "" if value is None else f"{math.floor(100 * value) / 100:.2f}"


def _duplicates(found: Summary) -> list[str]:
    """Return how much of the pool is alike, in one line."""
    alike = found.duplicates
    if alike is None or not alike.pairs:
        return []
    share = alike.pairs / found.manifest.rows
    return [
        f"{count(alike.pairs, 'pair')} ({share:.1%}) in {count(alike.groups, 'group')} are alike "
        f"on both sides (cosine above {alike.alike:g}); 'clipdre filter --distinct' keeps the best "
        "of each group"
    ]


def _reliability(found: Summary, folder: Path) -> list[str]:
    """Return what the reference leaves uncertain, in one or two lines."""
    weak = [n for n, r in found.manifest.pool_reliability.items() if r < TRUSTED_POOL]
    pool = [n for n in found.quantiles if n in weak]
    lines = []
    if pool:
        lines.append(
            f"the pool is small for {', '.join(pool)} (correlation between its halves below "
            f"{TRUSTED_POOL:g}): against other pairs their order would differ; score more pairs "
            "together"
        )
    manifest = found.manifest
    if manifest.keeps_reference:
        lines.append(
            "the reference was kept: all rows are scored against the "
            f"{count(found.reference.pairs, 'pair')} of the pool as it was; "
            f"{count(manifest.after_reference, 'row')} came later"
        )
    if found.is_exact:
        whose = "the pool as it was" if manifest.keeps_reference else "this pool"
        whose = whose if found.saved is None else f"the pool of {found.saved}"
        return [f"error of the reference: none, every score is exact for {whose}", *lines]
    name, reliability = found.least_reliable
    if math.isfinite(reliability):
        least = f"at least {math.floor(1000 * reliability) / 1000:.3f} ({name})"
    else:
        least = f"unknown, because {name} does not vary"
    lines = [
        *lines,
        f"reliability of the reference: {least}; 'clipdre reference {folder}' "
        "lists all columns and checks them against exact",
    ]
    if found.reference.method == "sample":
        lines.append(
            "the claimed errors of a uniform sample are not reliable: another draw would give "
            "other scores; use --reference stratified or exact"
        )
    return lines
