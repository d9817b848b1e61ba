"""`clipdre reference`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdre.cli.common_options import Json, Scores
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.estimating.check import ReferenceCheck

EXAMPLE = "Example:  clipdre reference scores --plot errors.png"
PLOTTED = ("log_ratio", "kl_image", "kl_text")


def reference(
    scores: Scores,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw estimated against exact scores to this file (.png, .svg)."),
    ] = None,
    json: Json = False,
) -> None:
    """Check the reference: how reliable each score is, and what would improve it.

    Claimed errors come from the folds of the bulk. If embeddings are kept, a sample of rows is also
    compared with exact scores: as scored, with twice the near counterparts, and with twice the
    bulk.
    """
    from clipdre.cli.terminal import echo_json, note
    from clipdre.errors import OutputError, UsageError
    from clipdre.estimating.check import check_reference
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.reporting.figures import Panel, plot_agreement

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"`plot` {plot} is not a picture", "name a .png or .svg file")
    found = check_reference(ScoreFolder(scores), read_complete_manifest(scores))
    if json:
        echo_json(_machine(found))
    else:
        _show(found)
    if plot is not None:
        if not found.checked:
            raise OutputError(
                "nothing to plot: the pool's own embeddings and reference are not kept",
                "score without `reference` PATH and `discard_embeddings`",
            )
        plot_agreement([Panel(name, "exact", *found.checked[name]) for name in PLOTTED], plot)
        note(f"picture: {plot}")


def _machine(found: ReferenceCheck) -> dict[str, Any]:
    from dataclasses import asdict

    from clipdre.formats.folders.records import builtins

    return {
        "record": builtins(found.record),
        "rows": found.rows,
        "cost": found.cost,
        "columns": [asdict(column) for column in found.columns],
        "advice": found.advice,
        "warnings": found.caveats,
    }


def _show(found: ReferenceCheck) -> None:
    from clipdre.cli.terminal import as_options, note, table

    record = found.record
    table(
        f"{record.method.capitalize()} reference of {count(record.pairs, 'pair')} "
        f"for {count(found.rows, 'row')} (nats; reliability of the reference and of the pool)",
        ("column", "mean", "spread", "mean se", "reference", "pool", "near log N"),
        [
            (
                c.column,
                f"{c.mean:.3f}",
                f"{c.spread:.3f}",
                f"{c.mean_se:.4f}",
                _number(c.reliability),
                _number(c.pool_reliability),
                "" if c.saturated is None else f"{c.saturated:.1%}",
            )
            for c in found.columns
        ],
        stdout=True,
    )
    if found.checked:
        checked = len(next(iter(found.checked.values()))[0])
        table(
            f"Measured on {count(checked, 'row')}: root mean square error against exact (nats)",
            ("column", "as scored", "twice near", "twice bulk"),
            [
                (c.column, *(_number(v) for v in (c.rmse, c.rmse_near, c.rmse_bulk)))
                for c in found.columns
            ],
            stdout=True,
        )
    for modality, near in record.near.items():
        note(
            f"{modality}: {count(near.cells, 'cell')}; {near.share:.2%} of the pool is near a "
            f"query and carries {near.mass:.2%} of its mass (on held-out queries)",
            stdout=True,
        )
    bulk = (
        f"; bulk: {count(record.bulk, 'pair')} in {count(record.folds, 'fold')}"
        if record.bulk
        else ""
    )
    note(f"cost: {found.cost:.1%} of the products that an exact reference takes{bulk}", stdout=True)
    log_n = math.log(max(record.pairs - 1, 1))
    note(f"log N = {log_n:.2f} nats: the largest KL over this reference", stdout=True)
    note(as_options(found.advice, None), stdout=True)
    for text in found.caveats:
        note(f"warning: {text}", stdout=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
