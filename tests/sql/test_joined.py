import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import SelectionError
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
def joined(pool, tmp_path):
    """Write files to join; return the joined table in pool order."""

    def join(*tables):
        paths = [tmp_path / f"file{n}.parquet" for n in range(len(tables))]
        for path, table in zip(paths, tables, strict=True):
            pq.write_table(pa.table(table), path)
        return table_of(row_set(query_of(*pool, paths)))

    return join


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


def test_columns_that_exist_already_are_named_after_their_file(joined):
    first = {"uid": POOL["uid"], "similarity": [9.0] * 6, "w": [1] * 6}
    second = {"uid": POOL["uid"], "w": [2] * 6, "file_index": [7] * 6}
    table = joined(first, second)
    assert table["similarity"].to_pylist() == list(range(6))
    assert table["file0_similarity"].to_pylist() == [9.0] * 6
    assert table["w"].to_pylist() == [1] * 6
    assert table["file1_w"].to_pylist() == [2] * 6
    assert table["file1_file_index"].to_pylist() == [7] * 6
    assert table["file_index"].to_pylist() == [0, 0, 0, 1, 1, 1]


def test_column_names_need_not_be_words(joined):
    names = ['a "quoted" name', "select", "x; DROP TABLE y", "ä"]
    table = joined({"uid": ["u1"], **{name: [n] for n, name in enumerate(names)}})
    for n, name in enumerate(names):
        assert table[name].to_pylist() == [None, n, None, None, None, None]


def test_names_that_differ_in_case_are_the_same_name(joined):
    table = joined({"uid": POOL["uid"], "Similarity": [7.0] * 6})
    assert table["similarity"].to_pylist() == list(range(6))
    assert table["file0_Similarity"].to_pylist() == [7.0] * 6


@pytest.mark.parametrize(
    ("table", "problem", "cure"),
    [
        (
            {"w": [1]},
            "has no column to join by",
            "add key_hash, shard and key, uid, or key",
        ),
        (
            {"uid": ["u1", "u2", "u1", "u1"], "w": [1, 2, 3, 4]},
            "names 2 rows more than once by uid",
            "keep one row for each",
        ),
        (
            {"shard": ["a", "a"], "key": ["b", "b"]},
            "names 1 row more than once by shard and key",
            "keep one row for each",
        ),
    ],
)
def test_refuses_files_that_cannot_be_joined(joined, tmp_path, table, problem, cure):
    with pytest.raises(SelectionError) as caught:
        joined(table)
    assert caught.value.problem == f"`joined` {tmp_path / 'file0.parquet'} {problem}"
    assert caught.value.cure == cure


def test_refuses_files_that_are_not_parquet(pool, tmp_path):
    (tmp_path / "text.parquet").write_text("not a table at all")
    for name, problem in (
        ("text.parquet", "cannot read `joined` {} as Parquet"),
        ("missing.parquet", "`joined` {} is not a file"),
        ("scores", "`joined` {} is not a file"),
    ):
        with pytest.raises(SelectionError) as caught:
            query_of(*pool, [tmp_path / name])
        assert caught.value.problem.startswith(problem.format(tmp_path / name))
        assert caught.value.cure == "name a Parquet file"
        assert "\n" not in caught.value.problem
