from hashlib import blake2b

import numpy as np
import pytest

from clipdre.errors import ScoresError, SelectionError
from clipdre.sql.row_set import RowSet, seeded_hash
from tests.sql.made_up import query_of, random_hashes, row_set, table_of, write_pool

SIZES = (5, 0, 3, 4)
ROWS = sum(SIZES)
HASHES = random_hashes(ROWS)
X = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
GROUPS = list("abbaabcabcab")


@pytest.fixture
def query(tmp_path):
    columns = {"key": [f"k{n}" for n in range(ROWS)], "key_hash": HASHES, "x": X, "g": GROUPS}
    return query_of(tmp_path, write_pool(tmp_path, SIZES, columns))


def numbers(rows):
    """Indices of rows in the pool, in the order in which they come."""
    return [int(key[1:]) for key in table_of(rows, ["key"])["key"].to_pylist()]


def test_places_name_the_shard_and_the_row_in_it(query):
    table = table_of(row_set(query), [])
    assert table["file_index"].to_pylist() == [0] * 5 + [2] * 3 + [3] * 4
    assert table["file_row_number"].to_pylist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]


def test_conditions_narrow_a_set(query):
    rows = row_set(query, "x > 2", "x").where("where_0")
    assert numbers(rows) == np.flatnonzero(X > 2).tolist()
    assert numbers(rows.where("by_0 < 5")) == np.flatnonzero((X > 2) & (X < 5)).tolist()
    assert numbers(rows) == np.flatnonzero(X > 2).tolist()


def test_counts_and_aggregates(query):
    rows = row_set(query, "g = 'a'", "x").where("where_0")
    chosen = X[np.array(GROUPS) == "a"]
    assert rows.count() == len(chosen)
    assert rows.count("by_0 > 3") == (chosen > 3).sum()
    assert rows.one("min(by_0)", "sum(by_0)") == (chosen.min(), chosen.sum())
    assert rows.one("count(*)", condition="by_0 > 3") == ((chosen > 3).sum(),)
    (values,) = rows.arrays("by_0 * 2 AS twice", condition="by_0 > 3")
    assert sorted(values) == sorted(2 * chosen[chosen > 3])
    assert rows.all("SELECT max(by_0) FROM {rows}") == [(chosen.max(),)]


@pytest.mark.parametrize("cap", [1, 2])
def test_keeps_the_first_rows_of_each_group(query, cap):
    expected = []
    for group in "abc":
        members = [n for n in range(ROWS) if GROUPS[n] == group]
        expected += sorted(members, key=lambda n: (-X[n], HASHES[n]))[:cap]
    rows = row_set(query, by="x").first_per_group("g", "by_0 DESC, key_hash", str(cap))
    assert numbers(rows) == sorted(expected)
    (values,) = rows.arrays("by_0")
    assert sorted(values) == sorted(X[expected])


def test_narrow_sets_have_all_columns_again_when_read(query):
    rows = row_set(query, "rank(x) > 6", "x").where("where_0")
    assert rows.narrow
    ranks = np.array([(x >= X).sum() for x in X])
    table = table_of(rows)
    expected = np.flatnonzero(ranks > 6)
    assert table["key"].to_pylist() == [f"k{n}" for n in expected]
    assert table["g"].to_pylist() == [GROUPS[n] for n in expected]
    assert table.column_names[2:] == ["key", "key_hash", "x", "g"]


def test_batches_come_in_an_order_of_choice(query):
    batches = list(row_set(query).batches(["key"], order="x DESC, key_hash"))
    keys = [key for batch in batches for key in batch["key"].to_pylist()]
    assert keys == [f"k{n}" for n in sorted(range(ROWS), key=lambda n: (-X[n], HASHES[n]))]


@pytest.mark.parametrize(
    "disordered",
    [
        "SELECT * FROM pool ORDER BY file_index, file_row_number DESC",
        "SELECT * FROM pool ORDER BY file_index DESC, file_row_number",
        "SELECT * FROM pool UNION ALL SELECT * FROM pool WHERE file_index = 3",
    ],
)
def test_rows_out_of_pool_order_are_a_bug(query, disordered):
    rows = RowSet(query, query.table(disordered))
    with pytest.raises(ScoresError, match="rows came out of pool order: please report this"):
        list(rows.batches([]))


def test_errors_name_the_expression(query):
    rows = row_set(query, "key::INT > 1").where("where_0")
    with pytest.raises(SelectionError, match="`where` 'key::INT > 1'"):
        rows.count()


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_seeded_hashes_match_their_definition(query, seed):
    def expected(key_hash):
        factor = int.from_bytes(blake2b(f"seed {seed}".encode(), digest_size=8).digest(), "little")
        folded = key_hash * (factor | 1) % 2**64
        return (folded ^ folded >> 32) * 0x9E3779B97F4A7C15 % 2**64

    (found,) = row_set(query).arrays(seeded_hash(seed))
    assert found.dtype == np.uint64
    assert found.tolist() == [expected(int(h)) for h in HASHES]
