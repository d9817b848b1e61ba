"""The contract that every scorer keeps, as a check to call from its tests."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.config import MeasureConfig
from clipdre.core.columns import Column
from clipdre.formats.folders.columns import RECORD, ColumnFolder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.formats.folders.records import MeasureRecord
from clipdre.pipelines.measure import measure
from clipdre.scorers.base import Scorer

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Options that the command adds to those of the scorer.
COMMON = {"suffix", "device", "overwrite"}
TOLERANCE = 1e-5


def check_scorer(scorer: type[Scorer], scores: Path, scratch: Path) -> None:
    """Check that a scorer keeps the contract; AssertionError with the first breach.

    It is declared completely, returns its declared columns without gaps, gives the same numbers for
    any number of rows at once, resumes, can be merged by copying files, and does nothing twice.

    Parameters
    ----------
    scorer : type
        Measured with the settings of its `example`.
    scores : Path
        A finished score folder of several shards, with embeddings and sources; it is not changed.
    scratch : Path
        An empty folder to work in.
    """
    _check_declaration(scorer)
    instance = example_of(scorer, scores)
    _check_columns(instance)
    whole = _Measured(scores, scratch / "whole", instance)
    _check_values(whole)
    _check_any_tile_size(whole, scratch / "tiles")
    _check_nothing_is_done_twice(whole)
    _check_resumes(whole)
    _check_merges(whole, scratch / "merged")


def example_of(scorer: type[Scorer], scores: Path) -> Scorer:
    """Return the scorer with the settings of its example."""
    settings = {
        name: str(scores) if value == "SCORES" else value for name, value in scorer.example.items()
    }
    return scorer(**settings)


class _Measured:
    """A copy of a score folder, with the columns of a scorer."""

    def __init__(self, scores: Path, copy: Path, scorer: Scorer, **options: Any) -> None:
        shutil.copytree(scores, copy, ignore=shutil.ignore_patterns("columns"))
        self.folder, self.scorer = ScoreFolder(copy), scorer
        self.config = MeasureConfig(device="cpu", **options)
        self.manifest = read_complete_manifest(copy)
        self.columns = ColumnFolder(self.folder.columns / scorer.name)
        self.record = self.measure()

    def measure(self) -> MeasureRecord:
        return measure(self.folder, self.manifest, self.scorer, self.config)

    @property
    def files(self) -> list[Path]:
        return [self.columns.file(shard.name) for shard in self.manifest.shards]

    @property
    def tables(self) -> list[pa.Table]:
        return [pq.read_table(file) for file in self.files]

    @property
    def times(self) -> list[int]:
        return [file.stat().st_mtime_ns for file in self.files]


def _check_declaration(scorer: type[Scorer]) -> None:
    assert dataclasses.is_dataclass(scorer), "a scorer is a dataclass"
    assert scorer.__dataclass_params__.frozen, "a scorer is frozen"
    assert NAME.fullmatch(scorer.name), f"{scorer.name} is not a name in lower case with dashes"
    assert scorer.title, "a scorer has a title"
    assert scorer.source, "a scorer names its source"
    assert scorer.version >= 1, "versions start at 1"
    for field in dataclasses.fields(scorer):
        assert field.metadata.get("help"), f"setting {field.name} has no help text"
        assert field.name not in COMMON, f"{field.name} is an option of every scorer"


def _check_columns(scorer: Scorer) -> None:
    columns = scorer.columns()
    assert columns, "a scorer has columns"
    names = [column.name for column in columns]
    assert len(set(names)) == len(names), "column names repeat"
    for column in columns:
        assert isinstance(column, Column)
        assert COLUMN_NAME.fullmatch(column.name), f"{column.name} is not in lower case"
        assert column.meaning, f"{column.name} has no meaning"


def _check_values(whole: _Measured) -> None:
    declared = [column.name for column in whole.scorer.columns()]
    assert [column.name for column in whole.record.columns] == declared
    for shard, table in zip(whole.manifest.shards, whole.tables, strict=True):
        assert table.column_names == declared
        assert len(table) == shard.rows
        for name in declared:
            missing = pa.compute.is_null(table[name], nan_is_null=True)
            assert not pa.compute.any(missing).as_py(), f"{name} has rows without a value"


def _check_any_tile_size(whole: _Measured, scratch: Path) -> None:
    small = _Measured(whole.folder.path, scratch, whole.scorer, rows_at_once=7)
    assert small.record.stamp == whole.record.stamp, "the stamp depends on the tile size"
    for one, other in zip(whole.tables, small.tables, strict=True):
        for name in one.column_names:
            assert _close(one[name], other[name]), f"{name} depends on the tile size"


def _close(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(one.type):
        return bool(one.equals(other))
    apart = pa.compute.abs(pa.compute.subtract(one, other))
    scale = pa.compute.add(pa.compute.abs(one), 1.0)
    return bool(pa.compute.max(pa.compute.divide(apart, scale)).as_py() <= TOLERANCE)


def _check_nothing_is_done_twice(whole: _Measured) -> None:
    before = whole.times
    assert whole.measure() == whole.record
    assert whole.times == before, "a finished shard was measured again"


def _check_resumes(whole: _Measured) -> None:
    tables, before = whole.tables, whole.times
    whole.files[-1].unlink()
    (whole.columns.path / RECORD).unlink()
    whole.measure()
    assert whole.times[:-1] == before[:-1], "resuming measured a finished shard again"
    assert whole.tables == tables, "a resumed run gives other values"


def _check_merges(whole: _Measured, scratch: Path) -> None:
    merged = _Measured(whole.folder.path, scratch, whole.scorer)
    merged.files[0].unlink()
    (merged.columns.path / RECORD).unlink()
    shutil.copy2(whole.files[0], merged.files[0])
    before = merged.times
    merged.measure()
    assert merged.times == before, "files from another machine were measured again"
