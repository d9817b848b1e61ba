"""Results of students: a Parquet file for each pool, a row for each student."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

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
