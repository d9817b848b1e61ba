"""`python -m evidence`: students, tables and the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import clipdre
from clipdre.errors import ClipdreError
from evidence import clipart, weighted
from evidence.benches import Bench, bench
from evidence.grid import cells, run
from evidence.own import OwnBench, read_pairs
from evidence.picture import Panel, save
from evidence.pools import POOLS
from evidence.report import read_rows
from evidence.report import report as report_of
from evidence.stored import EVERYTHING, RANDOM, WITHOUT_TEACHER, Results
from evidence.students import Recipe
from evidence.subsets import FILTERS, TARGET

BUILD = Path("build/evidence")
STORED = Path("evidence/results")
PICTURE = Path("docs/images/evidence.svg")
PANELS = (
    Panel("small", "clipdre-tiny", "few copies, scored by clipdre-tiny"),
    Panel("copies", "strong", "40% copies, scored by a good model"),
    Panel("copies", "own", "40% copies, by a model of this pool"),
)
QUICK = ("similarity", "log_ratio", "log-ratio-copies-last", "kl_text")
OWN = (*QUICK[:-1], "similarity, copies last", "log-ratio-then-kl")
BUDGETS = (0.10, 0.20, 0.45)
SEEDS = range(5)
# Which teachers score which pool in the full grid.
FULL = dict.fromkeys(POOLS, ("strong", "weak", "own")) | {
    "small": ("clipdre-tiny", "tiny, a quarter", "own")
}
CLIPART = Path("../shared/data")


def main(  # noqa: PLR0913 (one parameter per option)
    full: Annotated[
        bool, typer.Option("--full", help="All pools, teachers, rules and budgets; hours.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print the tables of stored results; train nothing.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the picture of stored results; train nothing.")
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(help="Shards of your own, or 'clipart'; repeat it for several."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model that scores --pool.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Its weights.")] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="Rule to compare on --pool, by its name in evidence/subsets.py; repeat."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Students of each rule and budget.")] = 3,
    steps: Annotated[
        int, typer.Option(min=20, help="Training steps of each student.")
    ] = Recipe.steps,
    results: Annotated[
        Path | None, typer.Option(help="Folder of result files; a finished student is kept.")
    ] = None,
) -> None:
    """Train students on what each rule keeps, and compare them."""
    stored = results or (STORED if report or picture else BUILD / "results")
    if picture is not None:
        save(read_rows(stored), PANELS, picture)
    if report:
        typer.echo(report_of(stored))
    if report or picture is not None:
        return
    recipe = Recipe(steps=steps)
    torch.set_num_threads(1)  # students are small: more threads only wait for each other
    if pool:
        rules = _known(rule or OWN)
        _own(pool, model, pretrained, recipe, rules, range(seeds), stored)
    elif full:
        _full(recipe, stored)
    else:
        for name, teacher, _ in PANELS[:2]:
            _train(bench(name, BUILD, recipe), [teacher], QUICK, BUDGETS[1:], range(seeds), stored)
    typer.echo(report_of(stored))


def _train(  # noqa: PLR0913
    of: Bench,
    teachers: Iterable[str],
    rules: Iterable[str],
    budgets: Iterable[float],
    seeds: Iterable[int],
    stored: Path,
) -> None:
    grid = cells(list(teachers), [*WITHOUT_TEACHER, *rules], list(budgets), list(seeds))
    for row in run(of, grid, Results(stored / f"{of.name}.parquet")):
        _say(row)


def _say(row: dict[str, Any]) -> None:
    named = (row["pool"], row["teacher"], row["rule"], f"{row['budget']:.0%}", row["seed"])
    typer.echo(f"{' | '.join(map(str, named))} | {row['accuracy']:.3f}", err=True)


def _full(recipe: Recipe, stored: Path) -> None:
    for seed in SEEDS:
        for name, teachers in FULL.items():
            _train(bench(name, BUILD, recipe), teachers, FILTERS, BUDGETS, [seed], stored)
    world = bench("small", BUILD, recipe)
    for row in weighted.run(world, list(SEEDS), weighted.results(stored)):
        typer.echo(f"{row['domain']} | {row['arm']} | {row['inside_f1']:.3f}", err=True)


def _own(  # noqa: PLR0913
    pool: list[str],
    model: str | None,
    pretrained: str | None,
    recipe: Recipe,
    rules: Sequence[str],
    seeds: Iterable[int],
    stored: Path,
) -> None:
    """Train students on a pool of one's own, or on the clip-art."""
    of: Bench
    if pool == ["clipart"]:
        teacher, of = "own", clipart.bench(CLIPART, BUILD / "clipart", recipe)
    else:
        teacher = " ".join(filter(None, (model, pretrained))) or "default"
        name = f"own-{hashlib.sha256(repr((pool, teacher)).encode()).hexdigest()[:8]}"
        scores = clipdre.score(pool, BUILD / name / "scores", model=model, pretrained=pretrained)
        of = OwnBench(name, scores, read_pairs(scores), recipe)
    grid = cells([teacher], [EVERYTHING, RANDOM, *rules], BUDGETS, list(seeds))
    for row in run(of, grid, Results(stored / f"{of.name}.parquet")):
        _say(row)


def _known(rules: Sequence[str]) -> Sequence[str]:
    """Return rules that a pool of one's own can be filtered by: it has no target."""
    for name in rules:
        if name not in FILTERS:
            raise ClipdreError(f"there is no rule {name!r}", f"choose from {', '.join(FILTERS)}")
        if any(TARGET in settings.values() for settings in FILTERS[name].measures.values()):
            raise ClipdreError(f"rule {name} needs a target", "leave it out")
    return rules


if __name__ == "__main__":
    try:
        typer.run(main)
    except ClipdreError as error:
        raise SystemExit(f"error: {error}") from None
