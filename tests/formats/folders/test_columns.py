import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.errors import ScoresError
from clipdre.formats.folders.columns import (
    ColumnFolder,
    column_folders,
    is_current,
    row_digests,
)
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ColumnRecord, MeasureRecord
from tests.formats.folders.measured import (
    STALE,
    STAMP,
    key_hashes_of,
    rows_stamp,
    write_measured,
)
from tests.helpers import write_score_folder

SIZES = (5, 3, 4)
HASHES = np.random.default_rng(0).integers(0, 2**64, sum(SIZES), dtype=np.uint64)
VALUES = {
    "x": np.linspace(-1, 1, sum(SIZES)).astype(np.float32),
    "n": np.arange(100, 100 + sum(SIZES)),
}


@pytest.fixture
def pool(tmp_path):
    parts = np.split(HASHES, np.cumsum(SIZES)[:-1])
    return tmp_path, write_score_folder(tmp_path, [{"key_hash": part} for part in parts])


@pytest.fixture
def measured(pool):
    return ColumnFolder(write_measured(*pool, "made-up", VALUES))


def current(columns, pool):
    folder, manifest = pool
    digests = row_digests(ScoreFolder(folder), manifest.shards)
    return is_current(columns, columns.record(), manifest, digests)


def test_reads_a_record(measured):
    assert measured.name == "made-up"
    assert measured.record() == MeasureRecord(
        scorer="made-up",
        version=1,
        settings={"size": 3},
        stamp=STAMP,
        columns=tuple(
            ColumnRecord(name=n, unit="cosine", meaning=f"meaning of {n}", better="high")
            for n in ("x", "n")
        ),
        figures={"mean": 0.5},
        rows=12,
    )


def test_writes_a_record_that_other_programs_read(measured, tmp_path):
    written = json.loads((measured.path / "record.json").read_text())
    other = ColumnFolder(tmp_path / "columns" / "other")
    other.write_record(measured.record())
    assert json.loads((tmp_path / "columns" / "other" / "record.json").read_text()) == written


def test_unfinished_columns_have_no_record(measured, tmp_path):
    (measured.path / "record.json").unlink()
    assert measured.record() is None
    assert ColumnFolder(tmp_path / "columns" / "none").record() is None
    (tmp_path / "columns" / "file").write_text("")
    assert ColumnFolder(tmp_path / "columns" / "file").record() is None


@pytest.mark.parametrize(
    "change", [{"rows": "12"}, {"extra": 1}, {"columns": [{"name": "x"}]}, {"version": None}]
)
def test_a_damaged_record_is_refused_with_a_cure(measured, change):
    path = measured.path / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ScoresError, match=r"record\.json is damaged") as caught:
        measured.record()
    assert caught.value.cure == "measure again with `overwrite`"


def test_folders_come_by_name_without_hidden_ones_and_files(measured, pool):
    folder, _ = pool
    (folder / "columns" / "another").mkdir()
    (folder / "columns" / ".made-up").mkdir()
    (folder / "columns" / "notes.txt").write_text("")
    found = [columns.name for columns in column_folders(ScoreFolder(folder))]
    assert found == ["another", "made-up"]


def test_a_score_folder_without_measured_columns_has_no_folders(pool):
    assert list(column_folders(ScoreFolder(pool[0]))) == []


def test_written_columns_are_done_for_their_stamp_only(measured):
    stamp = measured.stamp("stamp", "rows")
    measured.write("00007", {"x": np.arange(3.0)}, stamp)
    table = pq.read_table(measured.file("00007"))
    assert table.column_names == ["x"]
    assert table["x"].to_pylist() == [0, 1, 2]
    assert table.schema.metadata == {b"clipdre.measure": b"stamp", b"clipdre.rows": b"rows"}
    assert measured.is_done("00007", stamp)
    assert not measured.is_done("00007", measured.stamp("other", "rows"))
    assert not measured.is_done("00007", measured.stamp("stamp", "other"))
    assert not measured.is_done("00008", stamp)


def test_row_digests_are_read_from_the_scores_or_their_stamp(pool):
    folder, manifest = pool
    names = [shard.name for shard in manifest.shards]
    expected = [rows_stamp(hashes) for hashes in key_hashes_of(folder, manifest)]
    assert row_digests(ScoreFolder(folder), manifest.shards) == expected
    path = ScoreFolder(folder).scores(names[1])
    stamped = pq.read_table(path).replace_schema_metadata({"clipdre.rows": "stamped"})
    pq.write_table(stamped, path)
    assert row_digests(ScoreFolder(folder), manifest.shards) == [
        expected[0],
        "stamped",
        expected[2],
    ]


def test_columns_of_these_rows_are_current(measured, pool):
    assert current(measured, pool)


@pytest.mark.parametrize("change", STALE)
def test_columns_of_other_rows_or_settings_are_not_current(measured, pool, change):
    change(measured.path, *pool)
    assert not current(measured, pool)
