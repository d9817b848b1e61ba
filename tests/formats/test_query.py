import numpy as np
import pytest

from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.query import ScoreQuery
from clipdre.formats.score_folder import ScoreFolder
from tests.conftest import read_scores


@pytest.fixture
def query(scored):
    folder, manifest = scored
    return ScoreQuery(ScoreFolder(folder), manifest)


def test_all_rows_come_in_pool_order(query, scored):
    folder, manifest = scored
    rows = query.rows()
    assert rows.shard.tolist() == [n for n in range(3) for _ in range(100)]
    assert rows.row.tolist() == [*range(100)] * 3
    assert rows.value is None
    assert rows.key_hash.tolist() == read_scores(folder, manifest)["key_hash"].to_pylist()


def test_where_and_by_against_pandas_free_truth(query, scored):
    table = read_scores(*scored)
    similarity = table["similarity"].to_numpy()
    rows = query.rows("similarity > 0.5 AND caption LIKE '%red%'", "-kl_text * 2")
    red = np.array(["red" in caption for caption in table["caption"].to_pylist()])
    expected = np.flatnonzero((similarity > 0.5) & red)
    assert (rows.shard * 100 + rows.row).tolist() == expected.tolist()
    np.testing.assert_allclose(rows.value, -2 * table["kl_text"].to_numpy()[expected])


def test_nulls_of_an_expression_are_nan(query):
    rows = query.rows(by="CASE WHEN width > 0 THEN NULL ELSE 1.0 END")
    assert np.isnan(rows.value).all()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("similrity > 0.3", "there is no column similrity; did you mean similarity"),
        ("zzzzzz = 1", "there is no column zzzzzz; the columns are key, uid, shard"),
        ("similarity >", "cannot be used"),
        ("'text'", "cannot be used"),
        ("sum(width) > 3", "cannot be used"),
        ("width > 1; DROP TABLE x", "cannot be used"),
        ("width > 1) UNION SELECT (1", "cannot be used"),
        ("caption::INT > 1", "cannot be used"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(query, where, message):
    with pytest.raises(SelectionError, match=message) as caught:
        query.rows(where)
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
        query.rows(where)


def test_settings_are_locked(query):
    with pytest.raises(Exception, match="configuration has been locked"):
        query._connection.execute("SET enable_external_access = true")


@pytest.mark.parametrize("by", ["caption", "uid"])
def test_text_cannot_be_ranked(query, by):
    with pytest.raises(SelectionError, match="not a number: rank by a score"):
        query.rows(by=by)


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
