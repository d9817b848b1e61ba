import gc
import tempfile
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import OutputError, ScoresError, SelectionError
from clipdre.sql.database import Database
from clipdre.sql.expressions import Expression, Kind

EXPRESSION = Expression("where_0", "`where`", "x > 1", Kind.CONDITION)
# A query that runs for hours.
ENDLESS = "SELECT count(*) FROM range(1000000000000) r WHERE r.range % 7 = 3"


@pytest.fixture
def database():
    return Database([], time_limit=60)


def test_reads_the_given_files_only(tmp_path):
    for name in ("given", "other"):
        pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / f"{name}.parquet")
    database = Database([str(tmp_path / "given.parquet")], time_limit=60)
    total = "SELECT sum(x) FROM read_parquet('{}')"
    assert database.fetchall(total.format(tmp_path / "given.parquet")) == [(6,)]
    with pytest.raises(SelectionError, match="file system operations are disabled"):
        database.fetchall(total.format(tmp_path / "other.parquet"))
    with pytest.raises(SelectionError, match="file system operations are disabled"):
        database.fetchall(f"COPY (SELECT 1) TO '{tmp_path / 'new.csv'}'")
    assert not (tmp_path / "new.csv").exists()


def test_refuses_paths_that_are_not_utf8():
    with pytest.raises(SelectionError, match=r"the path /caf\\udce9 is not UTF-8: rename it"):
        Database(["/caf\udce9"], time_limit=60)


def test_loads_no_extensions(database):
    with pytest.raises(SelectionError, match="disabled"):
        database.fetchall("INSTALL httpfs")
    with pytest.raises(SelectionError, match="disabled"):
        database.fetchall("LOAD httpfs")


def test_returns_rows_and_arrays(database):
    sql = "SELECT range AS n, -range::DOUBLE AS x FROM range(4)"
    assert database.fetchall(sql) == [(0, 0.0), (1, -1.0), (2, -2.0), (3, -3.0)]
    found = database.fetchnumpy(sql)
    assert list(found) == ["n", "x"]
    np.testing.assert_array_equal(found["n"], np.arange(4))
    np.testing.assert_array_equal(found["x"], -np.arange(4.0))


def test_keeps_tables_under_new_names(database):
    names = [database.table(f"SELECT {n} AS n") for n in range(3)]
    assert len({*names, database.new_name()}) == 4
    assert [database.fetchall(f"SELECT n FROM {name}") for name in names] == [
        [(0,)],
        [(1,)],
        [(2,)],
    ]


def test_copies_arrow_tables(database):
    database.register("given", pa.table({"x": ["a", None]}))
    assert database.fetchall("SELECT x FROM given") == [("a",), (None,)]


def test_streams_all_rows_in_batches(database):
    batches = list(database.stream("SELECT range AS n FROM range(300000)"))
    assert len(batches) > 1
    numbers = pa.Table.from_batches(batches)["n"].to_numpy()
    np.testing.assert_array_equal(numbers, np.arange(300_000))


def test_stops_queries_that_take_too_long():
    database = Database([], time_limit=0.3)
    started = time.monotonic()
    with pytest.raises(SelectionError) as caught:
        database.fetchall(ENDLESS, [EXPRESSION])
    assert time.monotonic() - started < 20
    assert caught.value.problem == "cannot use `where` 'x > 1': it took longer than 0.3 s"
    assert caught.value.cure == "simplify it, or raise `time_limit`"
    assert database.fetchall("SELECT 1") == [(1,)]  # the next query has its own time


def test_stops_streams_that_take_too_long():
    database = Database([], time_limit=0.3)
    with pytest.raises(SelectionError, match=r"cannot use the selection: it took longer"):
        list(database.stream(ENDLESS))


def test_stops_streams_that_take_too_long_after_their_first_batch():
    """Their errors come through Arrow, with its types."""
    database = Database([], time_limit=0.5)
    late = "SELECT range FROM range(1000000000000) WHERE range < 3000 OR range % 7 = 8"
    with pytest.raises(SelectionError, match=r"cannot use the selection: it took longer"):
        list(database.stream(late))


def test_an_unwritable_temporary_folder_is_named_with_a_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"cannot make a temporary folder .*: set TMPDIR to"):
        Database([], time_limit=60)


def test_arrays_with_nulls_are_damaged_scores(database):
    with pytest.raises(ScoresError, match="the scores have rows without a key hash"):
        database.fetchnumpy("SELECT * FROM (VALUES (1), (NULL))")


def test_stops_queries_that_fill_the_memory(database):
    with pytest.raises(SelectionError, match="more memory or temporary disk") as caught:
        database.fetchall("SELECT len(list(range)) FROM range(1000000000)", [EXPRESSION])
    assert caught.value.cure == "simplify it"
    assert "\n" not in str(caught.value)


def test_removes_its_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    database = Database([], time_limit=60)
    assert len(list(tmp_path.glob("clipdre-*"))) == 1
    del database
    gc.collect()
    assert not list(tmp_path.glob("clipdre-*"))


@pytest.mark.parametrize(
    ("sql", "problem", "cure"),
    [
        ("SELECT similrity FROM t", "there is no column similrity", "did you mean similarity?"),
        (
            "SELECT zzz FROM t",
            "there is no column zzz",
            "see 'clipdre info SCORES' for the columns",
        ),
        (
            "SELECT similarity, sum(similarity) FROM t",
            "an aggregate such as sum(x) covers all rows",
            "write sum(x) OVER ()",
        ),
    ],
)
def test_explains_errors_with_a_cure(database, sql, problem, cure):
    database.connection.execute("CREATE TABLE t (similarity FLOAT)")
    database.columns = ["similarity", "key"]
    with pytest.raises(SelectionError) as caught:
        database.fetchall(sql, [EXPRESSION])
    assert caught.value.problem == f"cannot use `where` 'x > 1': {problem}"
    assert caught.value.cure == cure


def test_names_all_expressions_of_a_query(database):
    by = Expression("by_0", "`by`", "y", Kind.NUMBER)
    with pytest.raises(SelectionError, match=r"cannot use `where` 'x > 1', `by` 'y': Parser Error"):
        database.fetchall("SELECT FROM WHERE", [EXPRESSION, by])


def test_other_errors_pass_through(database):
    with pytest.raises(ZeroDivisionError), database.guarded([EXPRESSION]):
        raise ZeroDivisionError
    with pytest.raises(SelectionError) as caught, database.guarded([EXPRESSION]):
        raise duckdb.Error("first line\nsecond line")
    assert str(caught.value) == "cannot use `where` 'x > 1': first line"
