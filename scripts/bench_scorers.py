"""What each scorer removes from the demo's noisy pool, how it ranks beside others, and its cost.

make demo && python scripts/bench_scorers.py demo
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer

import clipdre
from clipdre.config import MeasureConfig
from clipdre.core.columns import Column
from clipdre.core.scores import SCORES
from clipdre.errors import ClipdreError
from clipdre.pipelines.measure import measure
from clipdre.scorers.registry import scorers
from clipdre.truth.pool import CLEAN, NOISE

# Settings that suit a pool of 10,000 pairs of simple scenes.
SETTINGS: dict[str, dict[str, Any]] = {
    "clipcov": {"clusters": 100},
    "clusters": {"clusters": 100},
    "density-pruning": {"keep": 0.25, "clusters": 100},
    "image-based": {"clusters": 100},
    "semantic-duplicates": {"clusters": 100},
    "marginals": {"target": ('cluster_image = "uniform"',)},
    "metaclip": {"tail_share": 0.06},
    "normsim-dynamic": {"start": 0.4},
    "prompt-weight": {"prompt": ("a red circle",)},
}
TARGETS = ("image-based", "importance-resampling", "normsim")
BESIDE = ("similarity", "log_ratio", "kl_text")
KEPT = 0.25
CONFIG = MeasureConfig(overwrite=True, device="cpu")

Floats = npt.NDArray[np.float64]


class Ranked(NamedTuple):
    """A column to rank by, its values, and seconds of its scorer per million rows."""

    column: Column
    values: Floats
    seconds: float | None


def main(
    demo: Annotated[Path, typer.Argument(help="Folder of 'clipdre demo'.")] = Path("demo"),
) -> None:
    """Measure every scorer on the demo's noisy pool, and print a table."""
    warnings.simplefilter("ignore")
    scores = clipdre.open_scores(demo / "scores-pool")
    found = list(_ranked(scores, demo))
    truth = clipdre.open_scores(demo / "scores-pool").to_arrow(
        ["kind"], joined=demo / "truth" / "pool.parquet"
    )
    kinds = truth["kind"].to_numpy(zero_copy_only=False)
    beside = {r.column.name: _ranks(r) for r in found if r.column.name in BESIDE}
    planted = [kind for kind in (CLEAN, *NOISE) if (kinds == kind).any()]
    head = ["best quarter by", *planted, *BESIDE, "s per million"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for ranked in found:
        ranks = _ranks(ranked)
        kept = ranks >= np.sort(ranks)[-round(KEPT * len(ranks))]
        shares = [f"{kept[kinds == kind].mean():.0%}" for kind in planted]
        alike = [f"{_correlation(ranks, other):.2f}" for other in beside.values()]
        cost = "" if ranked.seconds is None else f"{ranked.seconds:.0f}"
        name = f"`{ranked.column.name}`" + (" (lowest)" if ranked.column.better == "low" else "")
        print(f"| {name} | {' | '.join([*shares, *alike, cost])} |", flush=True)


def _ranked(scores: clipdre.Scores, demo: Path) -> Iterator[Ranked]:
    """Yield the columns of `score` that rank pairs, then those of each scorer."""
    for score in SCORES:
        if score.column.name in scores.columns and score.column.better == "high":
            yield Ranked(score.column, _values(scores, score.column.name), None)
    for name, kind in scorers().items():
        settings = dict(SETTINGS.get(name, {}))
        if name in TARGETS:
            settings["target"] = str(demo / "scores-clean")
        start = time.process_time()
        try:
            scorer = kind(**settings)
            measure(
                scores.folder, scores.manifest, scorer, MeasureConfig(overwrite=True, device="cpu")
            )
        except ClipdreError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        seconds = (time.process_time() - start) / len(scores) * 1e6
        again = clipdre.open_scores(scores.folder.path)
        for column in scorer.columns():
            if column.better != "neither":
                yield Ranked(column, _values(again, column.name), seconds)


def _values(scores: clipdre.Scores, column: str) -> Floats:
    values: Floats = scores.to_arrow([column])[column].to_numpy().astype(np.float64)
    return values


def _ranks(ranked: Ranked) -> Floats:
    """Return the place of each row, the best last; ties at random, missing values first."""
    sign = -1.0 if ranked.column.better == "low" else 1.0
    values = np.nan_to_num(sign * ranked.values, nan=-np.inf, posinf=1e300, neginf=-1e300)
    ranks = np.empty(len(values))
    ranks[np.lexsort((np.random.default_rng(0).random(len(values)), values))] = np.arange(
        len(values)
    )
    return ranks


def _correlation(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one, other)[0, 1])


if __name__ == "__main__":
    typer.run(main)
