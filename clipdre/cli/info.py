"""`clipdre info`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import typer

from clipdre.cli.common_options import Json, Scores

if TYPE_CHECKING:
    from clipdre.reporting.summary import Summary

EXAMPLE = "Example:  clipdre info scores"


def info(
    scores: Scores,
    json: Json = False,
) -> None:
    """Show what a score folder holds: samples, failures, scores, and what each column means."""
    from clipdre.cli.summary import show_summary
    from clipdre.cli.terminal import echo_json, table
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.reporting.summary import summarize

    found = summarize(ScoreFolder(scores), read_complete_manifest(scores))
    if json:
        echo_json(_machine(found))
        return
    show_summary(found, scores, stdout=True)
    typer.echo()
    table(
        "Columns",
        ("column", "unit", "better", "meaning"),
        [
            (c.name, c.unit, "" if c.better == "neither" else c.better, c.meaning)
            for c in found.columns
        ],
        words=4,
        stdout=True,
    )


def _machine(found: Summary) -> dict[str, Any]:
    from dataclasses import asdict

    from clipdre.formats.folders.records import builtins
    from clipdre.reporting.summary import PROBABILITIES

    name, reliability = found.least_reliable
    return {
        "model": builtins(found.manifest.model),
        "reference": builtins(found.reference),
        "keeps_reference": found.manifest.keeps_reference,
        "rows_after_reference": found.manifest.after_reference,
        "shards": len(found.manifest.shards),
        "samples": found.manifest.samples,
        "rows": found.manifest.rows,
        "failures": found.failures,
        "probabilities": PROBABILITIES,
        "quantiles": found.quantiles,
        "mean_log_ratio": found.mean_log_ratio,
        "least_reliable": {"column": name, "reliability": reliability},
        "pool_reliability": found.manifest.pool_reliability,
        "mutual_information": {
            "at_least": found.information,
            "at_most_shown": math.log(max(found.manifest.rows, 1)),
        },
        "duplicates": None if found.duplicates is None else asdict(found.duplicates),
        "warnings": found.caveats,
        "columns": [asdict(column) for column in found.columns],
    }
