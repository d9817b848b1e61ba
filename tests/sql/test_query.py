import gc
import tempfile
import time

import numpy as np
import pyarrow as pa
import pytest

from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.sql.expressions import Expression, Kind
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from tests.helpers import read_scores


@pytest.fixture
def query(scored):
    folder, manifest = scored
    return ScoreQuery(ScoreFolder(folder), manifest)


def rows_of(query, where=None, by=None):
    """Places (shard * 100 + row) for which `where` is true, and the values of `by`."""
    expressions = [
        Expression("where_0", "--where", where or "true", Kind.CONDITION),
        Expression("by_0", "--by", by or "0", Kind.NUMBER),
    ]
    rows = RowSet.of_pool(query, expressions).where("where_0")
    table = pa.Table.from_batches(list(rows.batches([])))
    (values,) = rows.arrays("coalesce(by_0, 'nan'::DOUBLE) AS v")
    return [
        100 * s + r for s, r in zip(*(c.to_pylist() for c in table.columns), strict=True)
    ], values


def test_all_rows_come_in_pool_order(query):
    assert rows_of(query)[0] == list(range(300))


def test_where_and_by_against_pandas_free_truth(query, scored):
    table = read_scores(*scored)
    similarity = table["similarity"].to_numpy()
    found, values = rows_of(query, "similarity > 0.5 AND caption LIKE '%red%'", "-kl_text * 2")
    red = np.array(["red" in caption for caption in table["caption"].to_pylist()])
    expected = np.flatnonzero((similarity > 0.5) & red)
    assert found == expected.tolist()
    np.testing.assert_allclose(values, -2 * table["kl_text"].to_numpy()[expected])


def test_windows_see_the_whole_pool(query, scored):
    """One of each caption, the best by log_ratio."""
    where = "row_number() OVER (PARTITION BY caption ORDER BY log_ratio DESC) = 1"
    captions = read_scores(*scored)["caption"].to_pylist()
    assert len(rows_of(query, where)[0]) == len(set(captions))
    assert len(rows_of(query, "rank(log_ratio) <= 30")[0]) == 30


def test_what_takes_too_long_is_stopped(scored):
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1], time_limit=0.3)
    endless = "(SELECT count(*) FROM range(1000000000000) r WHERE r.range % 7 = width) > 0"
    started = time.monotonic()
    with pytest.raises(SelectionError, match=r"took longer than 0\.3 s: make it simpler"):
        rows_of(query, endless)
    assert time.monotonic() - started < 20


def test_what_fills_the_memory_is_stopped(query):
    with pytest.raises(SelectionError, match="cannot be used"):
        rows_of(query, "(SELECT len(list(range)) FROM range(1000000000)) > width")


def test_the_temporary_folder_goes_with_the_query(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    assert len(list(tmp_path.glob("clipdre-*"))) == 1
    del query
    gc.collect()
    assert not list(tmp_path.glob("clipdre-*"))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("similrity > 0.3", "there is no column similrity; did you mean similarity"),
        ("zzzzzz = 1", "there is no column zzzzzz; the columns are key, uid, shard"),
        ("similarity >", "cannot be used"),
        ("'text'", "cannot be used"),
        ("sum(width) > 3", r"write sum\(x\) OVER \(\)"),
        ("width > 1; DROP TABLE x", "cannot be used"),
        ("width > 1) UNION SELECT (1", "cannot be used"),
        ("caption::INT > 1", "cannot be used"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(query, where, message):
    with pytest.raises(SelectionError, match=message) as caught:
        rows_of(query, where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "(SELECT count(*) FROM read_text('/etc/passwd')) > 0",
        "(SELECT count(*) FROM glob('/etc/*')) > 0",
        "(SELECT count(*) FROM '/etc/passwd') > 0",
        "(SELECT count(*) FROM read_csv('http://127.0.0.1:9/x.csv')) > 0",
    ],
)
def test_conditions_reach_no_files_and_no_network(query, where):
    with pytest.raises(SelectionError, match="cannot be used"):
        rows_of(query, where)


def test_settings_are_locked(query):
    with pytest.raises(Exception, match="configuration has been locked"):
        query._connection.execute("SET enable_external_access = true")


@pytest.mark.parametrize("by", ["caption", "uid"])
def test_text_cannot_be_ranked(query, by):
    with pytest.raises(SelectionError, match="not a number: rank by a score"):
        rows_of(query, by=by)


def test_quantiles_and_totals(query, scored):
    table = read_scores(*scored)
    values = table["kl_text"].to_numpy().astype(np.float64)
    found = query.quantiles("kl_text", (0.0, 0.5, 1.0))
    np.testing.assert_allclose(found, np.quantile(values, [0, 0.5, 1]), rtol=1e-6)
    np.testing.assert_allclose(query.total("kl_text"), values.sum())


def test_a_missing_score_file_is_named(scored, tmp_path):
    _, manifest = scored
    with pytest.raises(ScoresError, match=r"00000\.parquet is missing"):
        ScoreQuery(ScoreFolder(tmp_path), manifest)
