"""A summary of a score folder as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clipdre.cli.terminal import note, table
from clipdre.core.reliability import TRUSTED_POOL
from clipdre.formats.folders.manifest import PROBABILITIES, Manifest
from clipdre.words import count, size

if TYPE_CHECKING:
    from clipdre.formats.folders.folder import FailureExample
    from clipdre.formats.folders.records import ModelRecord
    from clipdre.reporting.summary import Summary


def show_summary(found: Summary, folder: Path, *, stdout: bool = False) -> None:
    """Print samples, failures by reason, and quantiles of the main scores."""
    manifest, model, reference = found.manifest, found.manifest.model, found.reference
    show_counts(manifest, found.examples, folder, stdout=stdout)
    table(
        f"Scores in nats (similarity: {_similarity(model)}): quantiles, and reliability of the "
        "pool",
        ("score", *(f"{p:.0%}" for p in PROBABILITIES), "pool"),
        [
            (name, *(f"{v:.3f}" for v in values), _share(manifest.pool_reliability.get(name)))
            for name, values in found.quantiles.items()
        ],
        stdout=stdout,
    )
    lines = [
        f"model: {describe_model(model)}",
        f"reference: {reference.method}, of {count(reference.pairs, 'pair')}",
        f"mean log ratio of the pool: {found.mean_log_ratio:.3f} nats",
        *_information(found),
        *_reliability(found, folder),
        *_duplicates(found),
        on_disk(found.disk),
        *(f"warning: {text}" for text in found.caveats),
    ]
    for line in lines:
        note(line, stdout=stdout)


def show_counts(
    manifest: Manifest,
    examples: Mapping[str, FailureExample],
    folder: Path,
    *,
    stdout: bool = False,
) -> None:
    """Print how many samples were scored and how many failed, with an example of each reason."""
    failed = sum(manifest.failures.values())
    note(
        f"{count(manifest.samples, 'sample')} in {count(len(manifest.shards), 'shard')}: "
        f"{manifest.rows:,} scored, {failed:,} failed",
        stdout=stdout,
    )
    if failed:
        rows = [
            (reason, _where(examples.get(reason)), f"{samples:,}")
            for reason, samples in manifest.failures.items()
        ]
        title = f"Failures (each is a row in {folder}/failures/)"
        table(title, ("reason", "for example", "samples"), rows, words=2, stdout=stdout)


def describe_model(model: ModelRecord) -> str:
    """Return a model's name and what decides its vectors, in a few words."""
    pretrained = f" {model.pretrained}" if model.pretrained else ""
    of = " of inner products" if model.inner_product else ""
    return f"{model.name}{pretrained}, {model.precision}, logit scale {model.logit_scale:.1f}{of}"


def _similarity(model: ModelRecord) -> str:
    return "an inner product" if model.inner_product else "a cosine"


def on_disk(parts: Mapping[str, int]) -> str:
    """Return the space that a folder takes, in one line."""
    listed = ", ".join(f"{name} {size(nbytes)}" for name, nbytes in parts.items())
    return f"on disk: {size(sum(parts.values()))} ({listed})"


def _where(example: FailureExample | None) -> str:
    return "" if example is None else f"{example.shard}/{example.key}".rstrip("/")


def _information(found: Summary) -> list[str]:
    """Return what the pool shows of the mutual information, in one line."""
    if found.information is None:
        return []
    limit = f"where this pool can show at most log N = {math.log(max(found.manifest.rows, 1)):.2f}"
    shown = f"at least {found.information:.2f} nats, {limit} (InfoNCE)"
    if not found.information > 0:
        shown = f"not shown by this pool (InfoNCE's bound is {found.information:.2f} nats)"
    return [f"mutual information of images and captions: {shown}"]


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
