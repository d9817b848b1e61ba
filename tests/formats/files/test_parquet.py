import io
import os

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import OutputError
from clipdre.formats.files.parquet import (
    read_footer,
    read_stamp,
    read_table,
    save_table,
    stamp_of,
    write_table,
)

TABLE = pa.table({"key": ["a", "b"], "score": [1.0, 2.0]})
STAMP = {"clipdre.plan": "digest", "clipdre.tar_bytes": "10240"}


def test_table_and_stamp_read_back(tmp_path):
    path = tmp_path / "deep" / "a.parquet"
    write_table(TABLE, path, STAMP)
    assert os.listdir(path.parent) == ["a.parquet"]
    assert pq.read_table(path).replace_schema_metadata(None).equals(TABLE)
    assert read_stamp(path) == STAMP
    assert read_stamp(io.BytesIO(path.read_bytes())) == STAMP


def test_stamp_joins_the_metadata_of_the_table(tmp_path):
    save_table(
        TABLE.replace_schema_metadata({"own": "1", "old": "2"}), tmp_path / "a", {"old": "3"}
    )
    assert read_stamp(tmp_path / "a") == {"own": "1", "old": "3"}


def test_table_without_stamp_has_an_empty_one(tmp_path):
    write_table(TABLE, tmp_path / "a.parquet")
    assert read_stamp(tmp_path / "a.parquet") == {}


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_truncated_file_has_no_stamp(tmp_path, kept):
    path = tmp_path / "a.parquet"
    write_table(TABLE, path, STAMP)
    path.write_bytes(path.read_bytes()[:kept])
    assert read_stamp(path) == {}


def test_missing_file_has_no_stamp(tmp_path):
    assert read_stamp(tmp_path / "none.parquet") == {}


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_table(TABLE, path, STAMP)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_table(TABLE.slice(0, 1), path)
    assert read_stamp(path) == STAMP
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_empty_tables_have_a_schema_and_no_row_group(tmp_path):
    table = pa.table({"key": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    write_table(table, tmp_path / "a.parquet", {"stamp": "x"})
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert (file.num_row_groups, file.schema_arrow.names) == (0, ["key", "n"])
    assert read_stamp(tmp_path / "a.parquet") == {"stamp": "x"}
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/a.parquet'").fetchall() == [(0,)]


def test_only_tables_of_some_size_are_compressed_and_have_statistics(tmp_path):
    for rows, large in ((10, False), (100_000, True)):
        save_table(pa.table({"n": range(rows)}), tmp_path / "a.parquet")
        column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
        assert (column.compression == "ZSTD") is column.is_stats_set is large
        assert read_table(tmp_path / "a.parquet")["n"].to_pylist() == list(range(rows))


def test_a_footer_says_what_the_file_holds(tmp_path):
    write_table(TABLE, tmp_path / "a.parquet", STAMP)
    assert read_footer(tmp_path / "a.parquet") == (2, ["key", "score"], STAMP)
    assert stamp_of(read_table(tmp_path / "a.parquet", ["key"])) == STAMP
