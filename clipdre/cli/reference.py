"""`clipdre reference`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipdre.estimating.check import ReferenceReport

EXAMPLE = "Example:  clipdre reference scores --plot errors.png"


def reference(
    scores: Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")],
    plot: Annotated[
        Path | None, typer.Option(help="Picture (.png, .svg) of estimated against exact.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """How each score was computed, how reliable it is, and what more would buy.

    Claimed errors come from the folds of the bulk. Where embeddings are kept, some rows are checked
    against exact as well: as they are, with twice the near counterparts, with twice the bulk.
    """
    from clipdre.cli.terminal import note
    from clipdre.errors import OutputError
    from clipdre.estimating.check import report
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.reporting.figures import Panel, plot_agreement

    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise typer.BadParameter("name a .png or .svg file", param_hint="--plot")
    found = report(ScoreFolder(scores), read_complete_manifest(scores))
    if as_json:
        typer.echo(_as_json(found))
    else:
        _print_report(found)
    if plot is not None:
        if not found.checked:
            raise OutputError(
                "nothing to plot: the scored pool's own embeddings and reference are not kept here"
            )
        shown = ("log_ratio", "kl_image", "kl_text")
        plot_agreement([Panel(name, "exact", *found.checked[name]) for name in shown], plot)
        note(f"picture: {plot}")


def _as_json(found: ReferenceReport) -> str:
    columns = [
        {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(column).items()
        }
        for column in found.columns
    ]
    whole = {
        "record": asdict(found.record),
        "rows": found.rows,
        "cost": found.cost,
        "columns": columns,
        "advice": found.advice,
    }
    return json.dumps(whole, indent=2, allow_nan=False)


def _print_report(found: ReferenceReport) -> None:
    from clipdre.cli.terminal import note, table

    record = found.record
    table(
        f"{record.method} reference of {record.pairs:,} pairs for {found.rows:,} rows (nats)",
        ("column", "mean", "spread", "mean se", "reliability", "near log N"),
        [
            (
                c.column,
                f"{c.mean:.3f}",
                f"{c.spread:.3f}",
                f"{c.mean_se:.4f}",
                f"{c.reliability:.4f}",
                "" if c.saturated is None else f"{c.saturated:.1%}",
            )
            for c in found.columns
        ],
    )
    if found.checked:
        checked = len(next(iter(found.checked.values()))[0])
        table(
            f"Measured on {checked:,} rows: root mean square error against exact (nats)",
            ("column", "as it is", "twice near", "twice bulk"),
            [
                (c.column, *(_number(v) for v in (c.rmse, c.rmse_near, c.rmse_bulk)))
                for c in found.columns
            ],
        )
    for side, near in record.near.items():
        note(
            f"{side}: {near.cells:,} cells; {near.share:.2%} of the pool are near a query and "
            f"carry {near.mass:.2%} of its mass (held-out queries)"
        )
    bulk = f", a bulk of {record.bulk:,} in {record.folds} folds" if record.bulk else ""
    note(f"cost: {found.cost:.1%} of the exact way's products{bulk}")
    note(
        f"log N = {math.log(max(record.pairs - 1, 1)):.2f} nats: the most a KL can be in this pool"
    )
    note(found.advice)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
