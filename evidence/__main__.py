"""`python -m evidence`: students, tables and the picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import clipdre
from clipdre.errors import ClipdreError
from evidence import clipart, weighted
from evidence.benches import Bench, bench
from evidence.grid import WITHOUT_TEACHER, Results, cells, run
from evidence.own import OwnBench, read_pairs
from evidence.picture import save
from evidence.pools import POOLS
from evidence.report import read_rows, tables, weighted_table
from evidence.students import Recipe
from evidence.subsets import FILTERS

BUILD = Path("build/evidence")
STORED = Path("evidence/results")
PICTURE = Path("docs/images/evidence.svg")
PANELS = (("small", "clipdre-tiny"), ("large", "strong"))
QUICK = ("similarity", "log_ratio", "log-ratio-then-kl, with copies", "kl_text")
BUDGETS = (0.10, 0.20, 0.45)
SEEDS = range(5)
# Which teachers score which pool in the full grid.
FULL = dict.fromkeys(POOLS, ("strong", "weak", "own")) | {"small": ("clipdre-tiny", "weak", "own")}
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
        _print(stored)
    if report or picture is not None:
        return
    recipe = Recipe(steps=steps)
    torch.set_num_threads(1)  # students are small: more threads only wait for each other
    if pool:
        _own(pool, model, pretrained, recipe, range(seeds), stored)
    elif full:
        _full(recipe, stored)
    else:
        _train(
            bench("small", BUILD, recipe),
            ("clipdre-tiny",),
            QUICK,
            BUDGETS[1:],
            range(seeds),
            stored,
        )
    _print(stored)


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
    seeds: Iterable[int],
    stored: Path,
) -> None:
    """Train students on a pool of one's own, or on the clip-art."""
    of: Bench
    teacher = model or "default"
    if pool == ["clipart"]:
        of, teacher = clipart.bench(CLIPART, BUILD / "clipart", recipe), "own"
    else:
        scores = clipdre.score(pool, BUILD / "own" / "scores", model=model, pretrained=pretrained)
        of = OwnBench("own", scores, read_pairs(scores), recipe)
    rules = [name for name in FILTERS if name != "negcliploss-normsim"]
    grid = list(cells([teacher], ["everything", "random", *rules], BUDGETS, list(seeds)))
    for row in run(of, iter(grid), Results(stored / f"{of.name}.parquet")):
        _say(row)


def _print(stored: Path) -> None:
    rows = read_rows(stored)
    for table in tables(rows):
        typer.echo(table)
    if found := weighted.results(stored).table().to_pylist():
        typer.echo(weighted_table(found))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ClipdreError as error:
        raise SystemExit(f"error: {error}") from None
