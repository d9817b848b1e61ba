import gzip
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.config import JoinKey
from clipdre.errors import SelectionError, UsageError
from tests.formats.folders.measured import write_measured
from tests.helpers import chosen
from tests.sql.made_up import query_of, random_hashes, row_set, table_of, write_pool

HASHES = random_hashes(6)
POOL = {
    "key": ["a", "b", "c", "a", "b", "d"],  # keys repeat across shards
    "uid": ["u0", "u1", "u2", "u3", "u4", "u5"],
    "shard": ["00000"] * 3 + ["00001"] * 3,
    "key_hash": HASHES,
    "similarity": np.arange(6.0),
}


@pytest.fixture
def pool(tmp_path):
    return tmp_path / "scores", write_pool(tmp_path / "scores", (3, 3), POOL)


@pytest.fixture
def files(tmp_path):
    """Write files to join, named by number; return their paths."""

    def write(*tables, names=None):
        paths = [tmp_path / f"{name}.parquet" for name in names or map("file{}".format, range(9))]
        for path, table in zip(paths, tables, strict=False):
            pq.write_table(pa.table(table), path)
        return paths[: len(tables)]

    return write


@pytest.fixture
def joined(pool, files):
    """Write files to join; return the joined table in pool order."""
    return lambda *tables: table_of(row_set(query_of(*pool, files(*tables))))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"key_hash": HASHES[[4, 0, 2]]}, [2, None, 3, None, 1, None]),
        (
            {"key": ["b", "a", "d"], "shard": ["00001", "00000", "00001"]},
            [2, None, None, None, 1, 3],
        ),
        ({"uid": ["u4", "u0", "u9"]}, [2, None, None, None, 1, None]),
        ({"key": ["b", "a", "z"]}, [2, 1, None, 2, 1, None]),
        # The first of these decides: the other is a column like any other.
        ({"uid": ["u4", "u0", "u9"], "key": ["x", "y", "z"]}, [2, None, None, None, 1, None]),
    ],
)
def test_joins_by_the_first_key_in_the_file(joined, keys, expected):
    table = joined({**keys, "w": [1, 2, 3]})
    assert table["w"].to_pylist() == expected
    assert table["uid"].to_pylist() == POOL["uid"]
    assert table["key"].to_pylist() == POOL["key"]


def test_columns_of_the_scores_keep_their_names(pool, files):
    first = {"uid": POOL["uid"], "similarity": [9.0] * 6, "w": [1] * 6}
    second = {"uid": POOL["uid"], "Similarity": [8.0] * 6, "v": [2] * 6}
    query = query_of(*pool, files(first, second))
    table = table_of(row_set(query))
    assert table["similarity"].to_pylist() == list(range(6))
    assert table["file0_similarity"].to_pylist() == [9.0] * 6
    assert table["file1_Similarity"].to_pylist() == [8.0] * 6  # SQL does not see upper case
    assert (table["w"].to_pylist(), table["v"].to_pylist()) == ([1] * 6, [2] * 6)
    assert [join.renamed for join in query.joins] == [
        {"similarity": "file0_similarity"},
        {"Similarity": "file1_Similarity"},
    ]


def test_column_names_need_not_be_words(joined):
    names = ['a "quoted" name', "select", "x; DROP TABLE y", "ä"]
    table = joined({"uid": ["u1"], **{name: [n] for n, name in enumerate(names)}})
    for n, name in enumerate(names):
        assert table[name].to_pylist() == [None, n, None, None, None, None]


def test_files_with_the_same_columns_are_one_table(pool, files):
    first = {"uid": ["u0", "u1"], "w": [0, 1], "caption": ["a", "b"]}
    second = {"w": [3.5], "caption": ["c"], "uid": ["u3"]}  # in another order, of another type
    paths = files(first, second, {"uid": ["u5"], "v": [5]})
    query = query_of(*pool, paths)
    table = table_of(row_set(query))
    assert table["w"].to_pylist() == [0, 1, None, 3.5, None, None]
    assert table["v"].to_pylist() == [None] * 5 + [5]
    assert [join.files for join in query.joins] == [
        (str(paths[0]), str(paths[1])),
        (str(paths[2]),),
    ]
    assert [(join.pool, join.matched) for join in query.joins] == [(6, 3), (6, 1)]


def test_columns_that_several_tables_have_are_refused(pool, files):
    paths = files({"uid": ["u0"], "w": [0]}, {"uid": ["u1"], "W": [1], "v": [1]})
    with pytest.raises(SelectionError) as caught:
        query_of(*pool, paths)
    assert caught.value.problem == (
        f"`joined` {paths[1]} has a column W, and so has `joined` {paths[0]}"
    )
    assert caught.value.cure == "rename one of them, or give both files the same columns"


def test_new_names_are_not_those_of_other_columns(pool, files):
    (path,) = files({"uid": ["u0"], "similarity": [0], "file0_similarity": [1]})
    with pytest.raises(SelectionError, match="has a column file0_similarity, and so has `joined`"):
        query_of(*pool, [path])


def test_a_uid_is_the_same_in_any_spelling(tmp_path, files):
    uids = [f"{n:032x}" for n in (10, 11, 2**100)] + ["not-Hex", "f" * 40, None]
    made_up = tmp_path / "s", write_pool(tmp_path / "s", (3, 3), POOL | {"uid": uids})
    names = ["A", f"{11:032X}", f"{2**100:x}", "not-Hex", "f" * 40, None]
    query = query_of(*made_up, files({"uid": names, "w": range(6)}))
    assert table_of(row_set(query))["w"].to_pylist() == [0, 1, 2, 3, 4, None]
    for other in ("not-hex", "f" * 41, "f" * 32):
        with pytest.raises(SelectionError, match="names none of the pairs by uid"):
            query_of(*made_up, files({"uid": [other]}))


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.uint8()])
def test_keys_that_became_numbers_find_their_zeros(tmp_path, files, kind):
    keys = ["00", "07", "007", "70", "x7", "0000000012"]
    made_up = tmp_path / "s", write_pool(tmp_path / "s", (3, 3), POOL | {"key": keys})
    table = {"key": pa.array([0, 7, 12, None], kind), "w": [0, 7, 12, 9]}
    query = query_of(*made_up, files(table))
    assert table_of(row_set(query))["w"].to_pylist() == [0, 7, 7, None, None, 12]


class TestOn:
    # img2dataset's sidecars: keys repeat across shards, exact duplicates share their uid.
    SIDECARS = (
        {"key": ["c", "a", "b"], "uid": ["x", "x", "y"], "w": [2, 0, 1]},
        {"key": ["a", "b", "d", "failed"], "uid": ["x", "z", "z", None], "w": [3, 4, 5, 9]},
    )

    def test_a_file_belongs_to_the_shard_of_its_name(self, pool, files):
        paths = files(*self.SIDECARS, names=["00000", "00001"])
        for on in (None, JoinKey.SHARD_KEY):
            query = query_of(*pool, paths, on=on)
            assert table_of(row_set(query))["w"].to_pylist() == list(range(6))
            assert (query.joins[0].by, query.joins[0].matched) == (("shard", "key"), 6)
        part = query_of(*pool, [*paths[1:], *files(self.SIDECARS[0], names=["00007"])])
        assert table_of(row_set(part))["w"].to_pylist() == [None] * 3 + [3, 4, 5]

    def test_names_of_shards_are_text(self, tmp_path, files):
        pool = POOL | {"shard": ["it's"] * 3 + ["0"] * 3}
        made_up = tmp_path / "s", write_pool(tmp_path / "s", (3, 3), pool)
        paths = files({"key": ["a"], "w": [1]}, names=["it's"])
        query = query_of(*made_up, paths, on=JoinKey.SHARD_KEY)
        assert table_of(row_set(query))["w"].to_pylist() == [1, None, None, None, None, None]

    def test_says_what_to_match_by(self, pool, files):
        table = {"uid": ["u9", "u0"], "key": ["d", "c"], "w": [1, 2]}
        by_uid = table_of(row_set(query_of(*pool, files(table))))
        assert by_uid["w"].to_pylist() == [2, None, None, None, None, None]
        by_key = table_of(row_set(query_of(*pool, files(table), on=JoinKey.KEY)))
        assert by_key["w"].to_pylist() == [None, None, 2, None, None, 1]

    def test_repeated_names_are_refused_with_others_to_use(self, pool, files):
        paths = files({"uid": ["u1", "u1", "u1"], "key": ["a", "b", "c"]})
        with pytest.raises(SelectionError) as caught:
            query_of(*pool, paths)
        assert caught.value.problem == (
            f"`joined` {paths[0]} has several rows for one pair by uid: 2 too many"
        )
        assert caught.value.cure == "set `on` to key, or keep one row for each"
        paths = files({"shard": ["00000"] * 2, "key": ["b", "b"]})
        with pytest.raises(SelectionError, match="1 too many: set `on` to key, or keep one row"):
            query_of(*pool, paths)

    def test_names_that_repeat_outside_the_pool_do_no_harm(self, joined):
        table = joined({"uid": ["gone", "gone", None, None, "u1"], "w": range(5)})
        assert table["w"].to_pylist() == [None, 4, None, None, None, None]

    def test_needs_files_that_have_the_names(self, pool, files):
        paths = files({"uid": ["u1"]})
        with pytest.raises(SelectionError, match="has no column key to join by: set another `on`"):
            query_of(*pool, paths, on=JoinKey.SHARD_KEY)
        with pytest.raises(UsageError, match="`on` can only be used with `joined`, whose rows"):
            query_of(*pool, on=JoinKey.UID)


def test_a_file_that_names_no_pair_is_refused(pool, files):
    for table, but in (
        ({"shard": ["00007"], "key": ["a"]}, "only others such as '00007/a'"),
        ({"shard": [], "key": []}, "since it is empty"),
    ):
        paths = files({name: pa.array(column, pa.string()) for name, column in table.items()})
        with pytest.raises(SelectionError) as caught:
            query_of(*pool, paths)
        assert caught.value.problem == (
            f"`joined` {paths[0]} names none of the pairs by shard and key, {but}"
        )
        assert caught.value.cure == "join files of this pool, or set another `on`"


def test_a_file_without_names_is_refused(pool, files):
    paths = files({"w": [1]})
    with pytest.raises(SelectionError) as caught:
        query_of(*pool, paths)
    assert caught.value.problem == f"`joined` {paths[0]} has no column to join by"
    assert caught.value.cure == "add key_hash, shard and key, uid, or key"


def test_files_that_are_not_parquet_are_refused(pool, tmp_path):
    (tmp_path / "text.parquet").write_text("not a table at all")
    with pytest.raises(SelectionError) as caught:
        query_of(*pool, [tmp_path / "text.parquet"])
    problem = f"cannot read `joined` {tmp_path}/text.parquet as Parquet: "
    assert caught.value.problem.startswith(problem)
    assert caught.value.cure == "name a Parquet file, or a CSV file that ends so"
    assert "\n" not in caught.value.problem


def test_characters_of_patterns_in_names_have_no_meaning(tmp_path, files):
    made_up = tmp_path / "s[1]", write_pool(tmp_path / "s[1]", (3, 3), POOL)
    write_pool(tmp_path / "s1", (3, 3), POOL | {"key": ["other"] * 6})
    names = ["a[1]", "a1", "b*", "bb"]
    paths = files(*({"uid": [f"u{n}"], "w": [n]} for n in range(4)), names=names)
    table = table_of(row_set(query_of(*made_up, paths[::2])))
    assert table["w"].to_pylist() == [0, None, 2, None, None, None]
    assert table["key"].to_pylist() == POOL["key"]


class TestOwnNames:
    """No column of a file is taken for one that clipdre adds to a query."""

    @pytest.mark.parametrize(
        "name", ["by_0", "where_0", "balance_0", "_ x", "_ q", "so_far", "joined"]
    )
    @pytest.mark.parametrize("value", [0.0, {"uid": "u0", "similarity": 0.0}])
    def test_a_column_replaces_no_expression(self, pool, files, name, value):
        other = {"uid": POOL["uid"], "w": range(6)}
        paths = files({"uid": POOL["uid"], name: [value] * 6}, other)
        for step in (
            {"by": "similarity", "top": 2},
            {"where": "similarity >= 4"},
            {"where": "w >= 4"},
            {"where": "similarity >= quantile(similarity, 0.8)"},
            {"where": "zscore(similarity) > 0.8"},
            {"where": "rank(similarity) > 4"},
        ):
            _, rows = chosen(pool, paths, **step).places
            assert rows.tolist() == [1, 2]
        _, rows = chosen(pool, paths, by="similarity", balance="shard", cap=1).places
        assert rows.tolist() == [2, 2]

    @pytest.mark.parametrize("name", ["_clipdre_by_0", "_CLIPDRE_WHERE_0", "file_index"])
    def test_own_names_are_refused(self, tmp_path, pool, files, name):
        problem = re.escape(f"has a column {name}, a name that clipdre keeps for itself: rename it")
        with pytest.raises(SelectionError, match=problem):
            query_of(*pool, files({"uid": POOL["uid"], name: range(6)}))
        scored = tmp_path / "other", write_pool(tmp_path / "other", (6,), POOL | {name: range(6)})
        with pytest.raises(SelectionError, match=problem):
            query_of(*scored)
        write_measured(*pool, "one", {name: np.zeros(6)})
        with pytest.raises(SelectionError, match=problem):
            query_of(*pool)


def test_only_ascii_letters_have_two_cases(joined, pool, files):
    table = joined({"uid": POOL["uid"], "\u00c9": [1] * 6, "\u00e9": [2] * 6})
    assert (table["\u00c9"].to_pylist(), table["\u00e9"].to_pylist()) == ([1] * 6, [2] * 6)
    with pytest.raises(SelectionError, match="has no column to join by"):
        query_of(*pool, files({"\u212aey": POOL["key"]}))  # the sign of kelvin


class TestCsv:
    def written(self, tmp_path, name, text):
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    @pytest.mark.parametrize("name", ["w.csv", "w.TSV", "w.csv.gz"])
    def test_joins_as_parquet_does(self, pool, tmp_path, name):
        comma = "," if "csv" in name else "\t"
        rows = ["Shard,key,w,note", '00001,b,0.5,"a ""b"""', "00000,a,2,x", "00001,z,3,y"]
        path = self.written(tmp_path, name, "\r\n".join(rows).replace(",", comma))
        query = query_of(*pool, [path])
        table = table_of(row_set(query))
        assert table["w"].to_pylist() == [2.0, None, None, None, 0.5, None]
        assert table["note"].to_pylist() == ["x", None, None, None, 'a "b"', None]
        assert [(join.by, join.matched) for join in query.joins] == [(("shard", "key"), 2)]

    def test_hashes_and_names_that_look_like_numbers_are_exact(self, tmp_path):
        names = {"key": ["0001", "1", "2e3"], "uid": ["0" * 31 + "7", "8", "x"]}
        hashes = [2**64 - 1, 2**63 + 1, 5]
        columns = {**names, "key_hash": np.array(hashes, np.uint64), "shard": ["00000"] * 3}
        scored = tmp_path / "s", write_pool(tmp_path / "s", (3,), columns)
        for by, values in {**names, "key_hash": hashes}.items():
            text = "\n".join([f"{by},w", *(f"{value},{n}" for n, value in enumerate(values))])
            path = self.written(tmp_path, f"{by}.csv", text)
            assert table_of(row_set(query_of(*scored, [path])))["w"].to_pylist() == [0, 1, 2], by

    def test_a_late_value_decides_the_type(self, pool, tmp_path):
        rows = ["uid,w", *(f"v{n},{n}" for n in range(30_000)), "u3,late"]
        path = self.written(tmp_path, "w.csv", "\n".join(rows))
        assert table_of(row_set(query_of(*pool, [path])))["w"][3].as_py() == "late"

    @pytest.mark.parametrize("text", ["", "uid,w\nu1,1,2,3\nu2\n", "\0\0\xff"])
    def test_what_is_no_table_is_refused_with_one_line(self, pool, tmp_path, text):
        path = self.written(tmp_path, "w.csv", text)
        with pytest.raises(SelectionError) as caught:
            query_of(*pool, [path])
        assert "\n" not in str(caught.value)
        assert "w.csv" in str(caught.value)
