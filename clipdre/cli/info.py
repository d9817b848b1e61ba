"""`clipdre info`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import typer

from clipdre.cli.common_options import Json, Scores

if TYPE_CHECKING:
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.reporting.summary import Summary
    from clipdre.reporting.unfinished import Unfinished

EXAMPLE = "Example:  clipdre info scores"


def info(
    scores: Scores,
    json: Json = False,
) -> None:
    """Show what a score folder holds: samples, failures, scores, and what each column means.

    Of a run that has not finished, shows how far it is.
    """
    from clipdre.cli.terminal import echo_json
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest, read_manifest
    from clipdre.reporting.summary import summarize

    folder, finished, unfinished = ScoreFolder(scores), None, None
    complete = read_manifest(scores).complete
    if not complete or folder.replacement.path.exists():
        from clipdre.reporting.unfinished import find_unfinished  # loads torch

        unfinished = find_unfinished(folder)
    if complete:
        finished = summarize(folder, read_complete_manifest(scores))
    if json:
        found = {"complete": finished is not None, **(_finished(finished) if finished else {})}
        if unfinished is not None:
            found["unfinished"] = _unfinished(unfinished, folder)
        echo_json(found)
        return
    if finished is not None:
        _show(finished, folder)
    if unfinished is not None:
        _show_unfinished(unfinished, folder)


def _show(found: Summary, folder: ScoreFolder) -> None:
    from clipdre.cli.summary import show_summary
    from clipdre.cli.terminal import table

    show_summary(found, folder.path, stdout=True)
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


def _show_unfinished(found: Unfinished, folder: ScoreFolder) -> None:
    from clipdre.cli.summary import describe_model, on_disk, show_counts
    from clipdre.cli.terminal import note
    from clipdre.reporting.contents import disk_usage, failure_examples
    from clipdre.words import count, size

    manifest = found.manifest
    what = "the scores that are to replace these are" if found.replaces else "this run is"
    every = count(len(manifest.shards), "shard")
    share = found.encoded_bytes / max(1, found.nbytes)
    note(f"{what} unfinished: run the same 'clipdre score' again, it resumes", stdout=True)
    note(
        f"encoded: {found.encoded:,} of {every}, {size(found.encoded_bytes)} of "
        f"{size(found.nbytes)} ({share:.0%})",
        stdout=True,
    )
    note(f"with scores: {found.scored:,} of {every}", stdout=True)
    place = folder.replacement if found.replaces else folder
    show_counts(manifest, failure_examples(place, manifest), place.path, stdout=True)
    note(f"model: {describe_model(manifest.model)}", stdout=True)
    note(on_disk(disk_usage(folder)), stdout=True)


def _unfinished(found: Unfinished, folder: ScoreFolder) -> dict[str, Any]:
    from clipdre.formats.folders.records import builtins
    from clipdre.reporting.contents import disk_usage

    return {
        "model": builtins(found.manifest.model),
        "shards": len(found.manifest.shards),
        "encoded": found.encoded,
        "scored": found.scored,
        "nbytes": found.nbytes,
        "encoded_nbytes": found.encoded_bytes,
        "rows": found.manifest.rows,
        "failures": found.manifest.failures,
        "disk": disk_usage(folder),
    }


def _finished(found: Summary) -> dict[str, Any]:
    from dataclasses import asdict

    from clipdre.formats.folders.manifest import PROBABILITIES
    from clipdre.formats.folders.records import builtins

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
        "failure_examples": {reason: asdict(e) for reason, e in found.examples.items()},
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
        "disk": found.disk,
        "warnings": found.caveats,
        "columns": [asdict(column) for column in found.columns],
    }
