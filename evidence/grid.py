"""Train a student for every rule, budget and seed; a finished one is never trained again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evidence.benches import Bench
from evidence.students import Rows
from evidence.subsets import FILTERS

EVERYTHING, RANDOM, ORACLE = "everything", "random", "clean at random"
# Rules that read no scores; what they keep depends on the seed alone.
WITHOUT_TEACHER = (EVERYTHING, RANDOM, ORACLE)
NO_TEACHER = "none"

SCHEMA = pa.schema(
    {
        "pool": pa.string(),
        "teacher": pa.string(),
        "rule": pa.string(),
        "budget": pa.float64(),
        "seed": pa.int64(),
        "steps": pa.int64(),
        "batch": pa.int64(),
        "kept": pa.int64(),
        "clean": pa.float64(),
        "accuracy": pa.float64(),
        "macro": pa.float64(),
        "attributes": pa.map_(pa.string(), pa.float64()),
        "seconds": pa.float64(),
    }
)


class Cell(NamedTuple):
    """One student to train."""

    teacher: str
    rule: str
    budget: float
    seed: int


@dataclass(frozen=True)
class Results:
    """A Parquet file with a row for each student, replaced as a whole whenever one is added."""

    path: Path
    schema: pa.Schema = SCHEMA

    def table(self) -> pa.Table:
        """Return all rows."""
        return pq.read_table(self.path) if self.path.exists() else self.schema.empty_table()

    def add(self, row: dict[str, Any]) -> None:
        """Add a row."""
        table = pa.concat_tables([self.table(), pa.Table.from_pylist([row], self.schema)])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}.tmp")
        pq.write_table(table, unfinished)
        unfinished.replace(self.path)

    def done(self) -> set[tuple[Cell, int, int]]:
        """Return the students that are there, each with its steps and batch."""
        rows = self.table().to_pylist()
        return {(Cell(*(r[name] for name in Cell._fields)), r["steps"], r["batch"]) for r in rows}


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
