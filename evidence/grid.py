"""Train a student for every rule, budget and seed; a finished one is never trained again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evidence.benches import Bench
from evidence.stored import EVERYTHING, NO_TEACHER, ORACLE, RANDOM, WITHOUT_TEACHER, Cell, Results
from evidence.students import Rows
from evidence.subsets import FILTERS


def cells(
    teachers: Sequence[str], rules: Sequence[str], budgets: Sequence[float], seeds: Sequence[int]
) -> Iterator[Cell]:
    """Yield the students of a grid, all of one seed before those of the next."""
    for seed in seeds:
        for rule in rules:
            free = rule in WITHOUT_TEACHER
            for teacher in [NO_TEACHER] if free else teachers:
                for budget in [1.0] if rule == EVERYTHING else budgets:
                    yield Cell(teacher, rule, budget, seed)


def run(bench: Bench, grid: Iterator[Cell], results: Results) -> Iterator[dict[str, Any]]:
    """Train the students of `grid` that `results` lacks; yield a row for each, once it is saved."""
    done = results.done()
    for cell in grid:
        if (cell, bench.recipe.steps, bench.recipe.batch) not in done:
            row = _row(bench, cell)
            results.add(row)
            yield row


def _row(bench: Bench, cell: Cell) -> dict[str, Any]:
    rows = bench.usable(kept(bench, cell))
    start = time.process_time()
    marks = bench.judge(bench.trainer.train(rows, cell.seed))
    return {
        "pool": bench.name,
        **cell._asdict(),
        "steps": bench.recipe.steps,
        "batch": bench.recipe.batch,
        "kept": len(rows),
        "clean": float(bench.clean[rows].mean()),
        "accuracy": marks.accuracy,
        "macro": marks.macro,
        "attributes": list(marks.attributes.items()),
        "seconds": time.process_time() - start,
    }


def kept(bench: Bench, cell: Cell) -> Rows:
    """Return the rows of the pool that a rule keeps."""
    n = round(cell.budget * len(bench.pairs))
    rng = np.random.default_rng(cell.seed)
    if cell.rule == EVERYTHING:
        return np.arange(len(bench.pairs))
    if cell.rule == RANDOM:
        return np.sort(rng.permutation(len(bench.pairs))[:n])
    if cell.rule == ORACLE:
        return np.sort(rng.permutation(np.flatnonzero(bench.clean))[:n])
    scores = bench.scores(cell.teacher)
    return FILTERS[cell.rule].rows(scores, n, bench.target(cell.teacher), cell.seed)
