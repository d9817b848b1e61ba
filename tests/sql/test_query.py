import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import ScoresError, SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.sql.expressions import Expression, Kind
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from tests.formats.folders.measured import STALE, write_measured
from tests.helpers import chosen, read_scores, write_score_folder
from tests.sql.made_up import query_of, random_hashes, row_set, table_of, write_pool

SIZES = (5, 3, 4)
ROWS = sum(SIZES)


def places(rows):
    """Places of rows as (shard, row)."""
    table = table_of(rows, [])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


class TestExpressions:
    def test_all_rows_come_in_pool_order(self, query):
        assert places(row_set(query)) == [(s, r) for s in range(3) for r in range(100)]

    def test_conditions_and_numbers_match_python(self, query, scored):
        table = read_scores(*scored)
        similarity = table["similarity"].to_numpy()
        rows = row_set(query, "similarity > 0.5 AND caption LIKE '%red%'", "-kl_text * 2")
        rows = rows.where("where_0")
        red = np.array(["red" in caption for caption in table["caption"].to_pylist()])
        expected = np.flatnonzero((similarity > 0.5) & red)
        assert 0 < len(expected) < 300
        assert [100 * shard + row for shard, row in places(rows)] == expected.tolist()
        (values,) = rows.arrays("by_0")
        np.testing.assert_allclose(values, -2 * table["kl_text"].to_numpy()[expected])

    def test_windows_see_the_whole_pool(self, query, scored):
        best = "row_number() OVER (PARTITION BY caption ORDER BY log_ratio DESC) = 1"
        highest = {}
        for row in read_scores(*scored).to_pylist():
            caption, ratio = row["caption"], row["log_ratio"]
            highest[caption] = max(ratio, highest.get(caption, ratio))
        assert len(highest) < 300
        found = table_of(row_set(query, best).where("where_0"), ["caption", "log_ratio"])
        assert sorted((row["caption"], row["log_ratio"]) for row in found.to_pylist()) == sorted(
            highest.items()
        )

    def test_macros_match_numpy(self, tmp_path):
        x = np.array([3, np.nan, 1, 2, 2, np.nan, 5, 4, 0, 9, 7, 8])
        columns = {"key_hash": random_hashes(ROWS), "x": x, "q": np.full(ROWS, 0.25)}
        query = query_of(tmp_path, write_pool(tmp_path, SIZES, columns))
        finite = x[~np.isnan(x)]
        expected = {
            "x - quantile(x, 0.25)": x - np.quantile(finite, 0.25),
            "zscore(x)": (x - finite.mean()) / finite.std(),
            "coalesce(rank(x), -1)": [-1 if np.isnan(v) else (finite <= v).sum() for v in x],
        }
        for by, values in expected.items():
            # Rows of a window come in any order.
            found = row_set(query, by=by).arrays("file_index", "file_row_number", "by_0")
            order = np.lexsort(found[1::-1])
            np.testing.assert_allclose(found[2][order], values, err_msg=by)

    def test_zscores_do_not_depend_on_the_order_of_rows(self, tmp_path):
        x = np.random.default_rng(0).normal(size=5000) * 1e3 + 0.1
        found = []
        for n, order in enumerate((np.arange(5000), np.arange(5000)[::-1])):
            hashes = np.arange(5000, dtype=np.uint64)
            halves = np.array_split(order, 3 - n)
            parts = [{"key_hash": hashes[half], "log_ratio": x[half]} for half in halves]
            manifest = write_score_folder(tmp_path / str(n), parts)
            rows = row_set(query_of(tmp_path / str(n), manifest), by="zscore(log_ratio)")
            key, values = rows.arrays("key_hash", "by_0")
            found.append(values[np.argsort(key)])
        np.testing.assert_array_equal(*found)
        np.testing.assert_allclose(found[0], (x - x.mean()) / x.std(), atol=1e-12)

    def test_booleans_and_integers_can_be_ranked(self, query, scored):
        (values,) = row_set(query, by="width > 3").arrays("by_0")
        assert values.tolist() == [1.0] * 300
        for by in ('"offset"', "offset", "OFFSET", "offset + 0"):
            (values,) = row_set(query, by=by).arrays("by_0")
            assert values.tolist() == read_scores(*scored)["offset"].to_pylist()

    @pytest.mark.parametrize("source", ["scores", "measured", "joined"])
    @pytest.mark.parametrize(
        ("where", "rows"),
        [("isnan(x)", [7]), ("x > 3", [7]), ("x = 2", [5, 6]), ("NOT isnan(x) AND x < 5", [5, 6])],
    )
    def test_nan_among_equal_values_is_found(self, tmp_path, source, where, rows):
        x = np.full(ROWS, 9.0)
        x[5:8] = 2, 2, np.nan  # all of the second shard
        columns, files = {"key_hash": random_hashes(ROWS)}, []
        scored = {"x": x} if source == "scores" else {}
        made_up = tmp_path, write_pool(tmp_path, SIZES, columns | scored)
        if source == "measured":
            write_measured(*made_up, "one", {"x": x})
        elif source == "joined":
            files.append(tmp_path / "x.parquet")
            pq.write_table(pa.table({**columns, "x": x}).slice(5, 3), files[0])
        found = row_set(query_of(*made_up, files), f"{where} AND file_index = 1", "x")
        kept = found.where("where_0")
        assert places(kept) == [(1, row - 5) for row in rows]
        np.testing.assert_array_equal(np.sort(kept.arrays("by_0")[0]), x[rows])


class TestRefusals:
    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("similrity > 0.3", "there is no column similrity: did you mean similarity?"),
            ("zzzzzz = 1", "there is no column zzzzzz: see 'clipdre info SCORES'"),
            ("similarity >", "Parser Error"),
            ("'text'", "it has type VARCHAR: use a condition"),
            ("similarity", "it has type FLOAT: use a condition"),
            ("sum(width) > 3", r"write sum\(x\) OVER \(\)"),
            ("width > 1; DROP TABLE x", "Parser Error|one expression"),
            ("width > 1) UNION SELECT (1", "Parser Error"),
            ("caption::INT > 1", "Conversion Error"),
        ],
    )
    def test_explains_what_is_not_a_condition_in_one_line(self, query, where, message):
        with pytest.raises(SelectionError, match=message) as caught:
            RowSet.of_pool(query, [Expression("e", "`where`", where, Kind.CONDITION)]).count("e")
        assert caught.value.problem.startswith(f"cannot use `where` {where!r}: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("by", "kind"),
        [("caption", "VARCHAR"), ("uid", "VARCHAR"), ("[similarity]", r"FLOAT\[\]")],
    )
    def test_text_and_lists_cannot_be_ranked(self, query, by, kind):
        with pytest.raises(SelectionError, match=f"it has type {kind}: use a number"):
            row_set(query, by=by)

    @pytest.mark.parametrize(
        "source",
        [
            "read_csv('/etc/passwd')",
            "read_text('/etc/passwd')",
            "glob('/etc/*')",
            "'/etc/passwd'",
            "read_csv('http://127.0.0.1:9/x.csv')",
        ],
    )
    def test_conditions_cannot_reach_files_or_network(self, query, source):
        with pytest.raises(SelectionError, match="cannot use `where`"):
            row_set(query, f"(SELECT count(*) FROM {source}) > 0").count("where_0")

    def test_settings_are_locked(self, query):
        with pytest.raises(SelectionError, match="configuration has been locked"):
            query.fetchall("SET enable_external_access = true")

    def test_conditions_end_with_the_time_limit(self, tmp_path):
        n = 100_000
        columns = {"key_hash": random_hashes(n), "caption": [f"a red circle {k}" for k in range(n)]}
        query = query_of(tmp_path, write_pool(tmp_path, (n,), columns), time_limit=0.2)
        slow = " OR ".join(f"regexp_matches(caption, '{k}{k}x.*y$')" for k in range(1000))
        with pytest.raises(SelectionError, match=r"took longer than 0\.2 s: simplify it"):
            row_set(query, slow).count("where_0")

    @pytest.mark.parametrize("limit", [0, -1, float("nan")])
    def test_time_limits_are_above_0(self, scored, limit):
        with pytest.raises(UsageError, match=r"`time_limit` .* is no time: use seconds above 0"):
            query_of(*scored, time_limit=limit)

    @pytest.mark.parametrize("limit", [1e300, float("inf")])
    def test_time_limits_have_no_limit(self, scored, limit):
        assert row_set(query_of(*scored, time_limit=limit)).count() == 300

    def test_names_a_missing_score_file(self, scored, tmp_path):
        _, manifest = scored
        with pytest.raises(
            ScoresError, match=r"00000\.parquet \(No such file .*\): score again with"
        ):
            ScoreQuery(ScoreFolder(tmp_path), manifest)


@pytest.fixture
def made_up(tmp_path):
    """Three shards with scores that give away the row."""
    hashes = random_hashes(ROWS)
    columns = {
        "key": [f"k{n}" for n in range(ROWS)],
        "key_hash": hashes,
        "similarity": np.arange(ROWS) / 10,
    }
    return tmp_path / "scores", write_pool(tmp_path / "scores", SIZES, columns)


MEASURED = {
    "m": np.array([5, 1, 9, 3, 7, 2, 8, 0, 6, 4, 11, 10], np.float32),
    "n": np.arange(ROWS) ** 2,
}


class TestMeasuredColumns:
    def test_lie_on_their_rows_in_pool_order(self, made_up):
        write_measured(*made_up, "one", {"m": MEASURED["m"]})
        write_measured(*made_up, "two", {"n": MEASURED["n"]})
        query = query_of(*made_up)
        assert query.columns == ["key", "key_hash", "similarity", "m", "n"]
        table = table_of(row_set(query))
        assert table["file_index"].to_pylist() == [0] * 5 + [1] * 3 + [2] * 4
        assert table["key"].to_pylist() == [f"k{n}" for n in range(ROWS)]
        assert table["m"].to_pylist() == MEASURED["m"].tolist()
        assert table["n"].to_pylist() == MEASURED["n"].tolist()

    def test_go_together_with_a_joined_file(self, made_up, tmp_path):
        write_measured(*made_up, "one", MEASURED)
        order = np.random.default_rng(1).permutation(ROWS)[:9]
        hashes = random_hashes(ROWS)
        weights = pa.table({"key_hash": hashes[order], "w": order, "m": -MEASURED["m"][order]})
        pq.write_table(weights, tmp_path / "weights.parquet")
        table = table_of(row_set(query_of(*made_up, [tmp_path / "weights.parquet"])))
        assert table["key"].to_pylist() == [f"k{n}" for n in range(ROWS)]
        assert table["m"].to_pylist() == MEASURED["m"].tolist()
        assert table["n"].to_pylist() == MEASURED["n"].tolist()
        for row in range(ROWS):
            inside = row in order
            assert table["w"][row].as_py() == (row if inside else None)
            expected = -MEASURED["m"][row] if inside else None
            assert table["weights_m"][row].as_py() == expected

    @pytest.mark.parametrize("joined", [False, True])
    def test_can_be_conditions_and_ranks(self, made_up, tmp_path, joined):
        write_measured(*made_up, "one", MEASURED)
        path = tmp_path / "weights.parquet"
        table = pa.table({"key_hash": random_hashes(ROWS)[::-1], "w": np.arange(ROWS)[::-1]})
        pq.write_table(table, path)
        files, extra = ([path], " AND w >= 0") if joined else ([], "")
        selection = chosen(made_up, files, where=f"m >= 4 AND n < 100{extra}", by="-m", top=3)
        shard, row = selection.places
        # Rows 0 to 9 have n < 100; of these the smallest m from 4 on are 4, 5 and 6.
        assert list(zip(shard, row, strict=True)) == [(0, 0), (2, 0), (2, 1)]
        best = chosen(made_up, files, by="m", top=2)
        assert [array.tolist() for array in best.places] == [[2, 2], [2, 3]]

    def test_stay_aligned_in_large_files(self, tmp_path):
        sizes = (70_000, 0, 90_001)
        n = sum(sizes)
        columns = {"key_hash": random_hashes(n), "x": np.arange(n)}
        made_up = tmp_path, write_pool(tmp_path, sizes, columns)
        write_measured(*made_up, "one", {"double": 2 * np.arange(n)})
        query = query_of(*made_up)
        assert row_set(query, "double = 2 * x").count("where_0") == n
        rows = row_set(query, "double % 7 = 0", "-double").where("where_0")
        assert table_of(rows, ["x"])["x"].to_pylist() == list(range(0, n, 7))
        ranked = chosen(made_up, where="x % 2 = 1", by="-double", top=3)
        assert [array.tolist() for array in ranked.places] == [[0, 0, 0], [1, 3, 5]]

    def test_are_described_by_their_record(self, made_up):
        write_measured(*made_up, "one", MEASURED)
        described = {column.name: column for column in query_of(*made_up).described()}
        assert list(described) == ["key", "key_hash", "similarity", "m", "n"]
        assert (described["m"].unit, described["m"].meaning) == ("cosine", "meaning of m")
        assert described["m"].better == "high"
        assert described["similarity"].unit == "cosine"
        assert described["key"].meaning == "name of the sample in its shard"

    def test_hidden_and_unfinished_folders_are_left_out(self, made_up):
        hidden = write_measured(*made_up, "hidden", {"h": MEASURED["m"]})
        hidden.rename(hidden.with_name(".hidden"))
        (write_measured(*made_up, "unfinished", {"u": MEASURED["m"]}) / "record.json").unlink()
        write_measured(*made_up, "one", {"m": MEASURED["m"]})
        assert query_of(*made_up).columns == ["key", "key_hash", "similarity", "m"]

    def test_a_damaged_record_is_an_error(self, made_up):
        (write_measured(*made_up, "one", MEASURED) / "record.json").write_text("{")
        with pytest.raises(ScoresError, match=r"record\.json is damaged .*: measure again with"):
            query_of(*made_up)

    @pytest.mark.parametrize("change", STALE)
    @pytest.mark.parametrize("kind", [Kind.CONDITION, Kind.NUMBER])
    def test_stale_ones_are_refused_with_a_cure(self, made_up, change, kind):
        write_measured(*made_up, "other", {"o": MEASURED["m"]})
        change(write_measured(*made_up, "one", MEASURED), *made_up)
        query = query_of(*made_up)
        assert "m" not in query.columns
        assert "n" not in query.columns
        with pytest.raises(SelectionError) as caught:
            query.view([Expression("e", "`where`", "m > 0", kind)])
        assert caught.value.problem == (
            "cannot use `where` 'm > 0': column m was measured for another state of this pool"
        )
        assert caught.value.cure == "run the same 'clipdre measure' again: one"


def test_columns_of_unknown_origin_are_described_as_such(tmp_path):
    columns = {"key_hash": random_hashes(ROWS), "aesthetic": np.zeros(ROWS)}
    query = query_of(tmp_path, write_pool(tmp_path, SIZES, columns))
    (aesthetic,) = query.described()[1:]
    assert (aesthetic.name, aesthetic.unit) == ("aesthetic", "")
    assert aesthetic.meaning == "from the pool's own metadata or a joined file"
