"""`clipdre demo`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdre.cli.common_options import no_stream
from clipdre.cli.numbers import Count
from clipdre.cpus import usable_cpus
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.demo import DemoReport

EXAMPLE = "Example:  clipdre demo /tmp/clipdre-demo"
PLOT = "estimated-against-true.png"


def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            help="New folder for the pools, scores and subset.",
            metavar="FOLDER",
            callback=no_stream,
        ),
    ],
    pairs: Annotated[
        int, typer.Option(parser=Count(500), help="Pairs in the noisy pool.", metavar="N")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed of the pools.")] = 1,
    device: Annotated[
        str, typer.Option(help="auto (all GPUs, else the cpu), cpu, cuda, cuda:1, ...")
    ] = "auto",
) -> None:
    """Score and filter two pools whose true density ratios are known.

    Draws two pools of simple scenes with captions: a clean one to compare estimates with the truth,
    and one with planted noise to see what each rule keeps.
    """
    from clipdre.demo import demo_encode_config, run_demo
    from clipdre.reporting.figures import Panel, plot_agreement

    report = run_demo(folder, pairs, seed, demo_encode_config(device, usable_cpus()))
    panels = [Panel(a.column, "true", a.true, a.estimated) for a in report.agreements]
    plot_agreement(panels, folder / PLOT)
    _print_report(report)


def _print_report(report: DemoReport) -> None:
    from clipdre.cli.terminal import note, table

    say = partial(note, stdout=True)

    table(
        f"Can the estimates be trusted? {report.clean.rows:,} clean pairs, truth known (nats)",
        ("score", "estimated mean", "true mean", "Pearson"),
        [
            (
                agreement.column,
                f"{agreement.estimated.mean():.3f}",
                f"{agreement.true.mean():.3f}",
                f"{agreement.pearson:.3f}",
            )
            for agreement in report.agreements
        ],
        stdout=True,
    )
    kinds = list(next(iter(report.kept.values())))
    table(
        f"What does each rule keep? {report.budget:,} of {report.pool.rows:,} pairs, noise planted "
        "(share kept of each kind)",
        ("rule", *kinds, "pure", "distinct"),
        [
            (
                rule,
                *(f"{kept[kind]:.0%}" for kind in kinds),
                f"{report.purity[rule]:.1%}",
                f"{report.distinct[rule]:.1%}",
            )
            for rule, kept in report.kept.items()
        ],
        stdout=True,
    )
    folder = report.folder
    failed = report.pool.samples - report.pool.rows
    say(
        "mismatched: the caption of another image; uninformative: a caption without content; "
        "blank: an image of one colour; duplicate: a copy of a clean pair; pure: share of clean "
        "pairs and copies among the kept; distinct: share of the kept that are pure and differ "
        "from each other."
    )
    say(
        "This world has 1,536 scenes, and the scene of every wrong caption is in the pool, which "
        "makes mismatched pairs easy to find. It also shows many pairs several times: copies teach "
        "a model nothing new, so log-ratio-copies-last, which we recommend, takes them last."
    )
    say(f"not images: {count(failed, 'planted file')}; see {folder}/scores-pool/failures/.")
    say(
        f"The pools and scores are in {folder}, the kept shards in {folder}/subset. "
        f"A picture of the first table is in {folder}/{PLOT}."
    )
    say(f"Open {report.page} in a browser to see the pairs; 'clipdre look' writes such a page.")
    say("Next, on your own shards:")
    say(
        "    clipdre filter $(clipdre score YOUR/SHARDS -o scores) --recipe log-ratio-copies-last "
        "--budget 30% -o kept"
    )
