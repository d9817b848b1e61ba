"""Several runs that measure one scorer, a slice each."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.config import MeasureConfig
from clipdre.errors import OutputError, ScoresError, UsageError
from clipdre.formats.files.storage import exclusive, shared
from clipdre.formats.folders.columns import ColumnFolder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.pipelines.measure import measure, measure_slice
from clipdre.scorers.density_pruning import DensityPruning
from clipdre.slices import Slice
from clipdre.sql.query import ScoreQuery
from tests.helpers import all_files
from tests.pipelines import toys

CPU = MeasureConfig(device="cpu")


@pytest.fixture
def scores(scored, tmp_path):
    path = shutil.copytree(scored[0], tmp_path / "scores")
    return ScoreFolder(path), read_complete_manifest(path)


def part_of(scores, scorer, n, count=2, config=CPU):
    return measure_slice(*scores, scorer, Slice(n, count), config)


def columns_of(folder, scorer):
    """Return the files of a scorer's columns: names, and tables of Parquet files."""
    files = sorted((folder / scorer.name).rglob("*"))
    return {path.name: pq.read_table(path) if path.suffix == ".parquet" else None for path in files}


@pytest.mark.parametrize("scorer", [toys.Constant(), toys.Worded(), toys.Centred()])
def test_slices_and_a_whole_run_measure_the_same(scores, tmp_path, scorer):
    measure(*scores, scorer, CPU)
    whole = shutil.move(scores[0].columns, tmp_path / "whole")
    for _ in range(2):  # the second time, every part of the first step is there
        for n in (1, 2):
            part_of(scores, scorer, n)
    columns = ColumnFolder(scores[0].columns / scorer.name)
    assert columns.record() is None
    written = [columns.file(shard.name).stat().st_mtime_ns for shard in scores[1].shards]
    measure(*scores, scorer, CPU)
    assert written == [columns.file(s.name).stat().st_mtime_ns for s in scores[1].shards]
    assert columns_of(scores[0].columns, scorer) == columns_of(whole, scorer)


def test_a_slice_waits_where_it_needs_what_others_compute(scores):
    scorer = toys.Centred()
    assert part_of(scores, scorer, 1) == "sums: 1 part"
    assert part_of(scores, scorer, 1) == "sums: 1 part"
    assert part_of(scores, scorer, 2) == ""  # all parts are there now, so it goes to its end
    columns = ColumnFolder(scores[0].columns / scorer.name)
    assert [columns.file(s.name).exists() for s in scores[1].shards] == [False, True, False]
    assert part_of(scores, scorer, 1) == ""
    assert "centred" not in ScoreQuery(*scores).columns
    measure(*scores, scorer, CPU)
    assert "centred" in ScoreQuery(*scores).columns


def test_slices_by_cluster_learn_from_the_same_centroids(scores, tmp_path):
    scorer = DensityPruning(keep=0.5, clusters=4)
    record = measure(*scores, scorer, CPU)
    whole = shutil.move(scores[0].columns, tmp_path / "whole")
    for _ in range(10):
        waiting = [part_of(scores, scorer, n, 3) for n in (1, 2, 3)]
        if not any(waiting):
            break
    else:
        pytest.fail("slices wait for ever")
    assert measure(*scores, scorer, CPU).figures == pytest.approx(record.figures)
    for name, table in columns_of(whole, scorer).items():
        now = columns_of(scores[0].columns, scorer)[name]
        for column in table.column_names if table else ():
            np.testing.assert_allclose(
                now[column].to_numpy().astype(float), table[column].to_numpy().astype(float)
            )


def test_other_settings_are_named(scores):
    part_of(scores, toys.Constant(1.0), 1)
    before = all_files(scores[0].path)
    with pytest.raises(ScoresError, match=r"other settings \(value 1.0 then, value 2.0 now\)"):
        part_of(scores, toys.Constant(2.0), 2)
    assert all_files(scores[0].path) == before
    part_of(scores, toys.Constant(2.0), 2, config=MeasureConfig("b", "cpu"))
    measure(*scores, toys.Constant(2.0), CPU)  # a whole run decides
    with pytest.raises(ScoresError, match="was measured with other settings"):
        part_of(scores, toys.Constant(1.0), 2)
    assert part_of(scores, toys.Constant(2.0), 2) == ""


def test_slices_run_at_the_same_time_but_not_beside_a_whole_run(scores):
    place = scores[0].columns / "constant"
    with shared(place):
        part_of(scores, toys.Constant(), 1)
        with pytest.raises(OutputError, match="another run is writing"):
            measure(*scores, toys.Constant(), CPU)
    with exclusive(place), pytest.raises(OutputError, match="another run is writing"):
        part_of(scores, toys.Constant(), 1)


def test_overwriting_is_refused(scores):
    with pytest.raises(UsageError, match="`slice` cannot be used with `overwrite`"):
        part_of(scores, toys.Constant(), 1, config=MeasureConfig(overwrite=True))
