import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.emitting.export import (
    write_arrow,
    write_csv,
    write_jsonl,
    write_keys,
    write_parquet,
    write_uids,
)
from clipdre.emitting.index import write_index
from clipdre.errors import SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_manifest
from clipdre.formats.name_lists import read_names
from clipdre.selecting.listed import select_listed
from clipdre.sql.query import ScoreQuery
from tests.helpers import pair, subset_of, tiny_score, write_score_folder, write_tar


@pytest.fixture(scope="module")
def repeating(tmp_path_factory):
    """Two shards with the same keys and short uids, and one sample each without a uid."""
    folder = tmp_path_factory.mktemp("repeating")
    (folder / "pool").mkdir()
    for s, name in enumerate("ab"):
        members = [
            member
            for n in range(4)
            for member in pair(str(n), f"{name} {n}", n, uid=f"{16 * s + n + 1:x}")
        ]
        write_tar(folder / "pool" / f"{name}.tar", [*members, *pair(f"alone-{name}", "x")])
    return folder / "s", tiny_score(folder / "pool", folder / "s")


def listed(scored, data):
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    return select_listed(query, read_names(io.BytesIO(data), "keys.txt"), "keys.txt")


def places(found):
    return list(zip(*(column.tolist() for column in found.selection.places), strict=True))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a/1.jpg\n", [(0, 1)]),
        (b"alone-b.tar.gz\n", [(1, 4)]),
        (b"b.tar/1.png\na/0\n", [(0, 0), (1, 1)]),
        (b"2.orig.jpg\n", [(0, 1), (0, 2), (1, 2)]),
        (b"file_name\na.tgz/3.txt\n", [(0, 3)]),
        (b"key,shard\n3.jpg,b\n", [(1, 3)]),
    ],
)
def test_names_of_files_stand_for_their_samples(repeating, data, expected):
    found = listed(repeating, data)
    assert places(found) == expected
    assert found.missing == 0


def test_a_key_with_a_dot_comes_before_the_name_of_a_file(scored, tmp_path):
    """Embeddings made elsewhere may have such keys."""
    columns = {"shard": ["s"] * 3, "key": ["a.b", "a", "c"], "uid": [None] * 3}
    write_score_folder(tmp_path, [{**columns, "key_hash": pa.array([1, 2, 3], pa.uint64())}])
    made_up = tmp_path, read_manifest(tmp_path)
    assert places(listed(made_up, b"a.b\n")) == [(0, 0)]
    assert places(listed(made_up, b"a.x\n")) == [(0, 1)]
    found = listed(made_up, b"c.x\nd.x\n")
    assert (places(found), found.missing, found.first_missing) == ([(0, 2)], 1, "d.x")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a/1"], [(0, 1)]),
        (["b/1", "a/0", "a/0"], [(0, 0), (1, 1)]),
        (["2"], [(0, 1), (0, 2), (1, 2)]),  # the key of two samples and the uid of another
        (["alone-b"], [(1, 4)]),
        ([f"{17:032x}"], [(1, 0)]),
        ([f"{17:X}"], [(1, 0)]),
    ],
)
def test_lines_are_keys_or_uids(repeating, lines, expected):
    found = listed(repeating, "\r\n".join(lines).encode())
    assert places(found) == expected
    assert len(found.selection) == len(expected)


def test_counts_missing_names(repeating):
    found = listed(repeating, b"a/1\na/9\nzzz\n\n")
    assert (found.names, found.missing, found.first_missing) == (3, 2, "a/9")
    assert listed(repeating, b"a/1\n").first_missing == ""


def test_refuses_lists_without_a_match(repeating):
    with pytest.raises(SelectionError, match=r"keys\.txt names none of the samples of .*'a/9': "):
        listed(repeating, b"a/9\n")
    with pytest.raises(SelectionError, match=r"keys\.txt is empty: list at least one sample"):
        listed(repeating, b"")


ROWS_BY_HALVES = [(0, 1), (1, 1), (1, 2), (1, 4)]


def table_bytes(table):
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"shard": ["b"], "key": ["2"], "uid": ["0013"]}, [(1, 2)]),
        ({"key": ["2", "2"], "uid": ["3", "1"]}, [(0, 2)]),
        ({"key": ["2"]}, [(0, 2), (1, 2)]),
        ({"key": [2]}, [(0, 2), (1, 2)]),
        ({"shard": ["a"], "uid": ["3"]}, [(0, 2)]),
        # What a row does not say is not compared.
        ({"key": ["1", None, "alone-b", None], "uid": [None, "13", None, None]}, ROWS_BY_HALVES),
        ({"shard": ["b", "b"], "key": ["1", None], "uid": [None, "11"]}, [(1, 0), (1, 1)]),
    ],
)
def test_all_that_a_row_says_has_to_match(repeating, columns, expected):
    assert places(listed(repeating, table_bytes(pa.table(columns)))) == expected
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines = "\n".join(json.dumps(row) for row in rows)
    assert places(listed(repeating, lines.encode())) == expected


@pytest.mark.parametrize(
    "writer", [write_keys, write_index, write_jsonl, write_parquet, write_csv, write_arrow]
)
def test_reads_what_filter_writes(repeating, writer):
    subset, out = subset_of(repeating, by="kl_text", top=4), io.BytesIO()
    writer(subset, out)
    assert places(listed(repeating, out.getvalue())) == places_of(subset)


def test_a_list_without_duplicates_keeps_none_either(tmp_path):
    """Exact duplicates share their uid; a list that names one of them by its key keeps that one."""
    (tmp_path / "pool").mkdir()
    samples = [m for n in range(4) for m in pair(str(n), uid=f"{n // 2:032x}")]
    write_tar(tmp_path / "pool" / "a.tar", samples)
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    names = {"uid": [f"{n:032X}" for n in range(2)], "key": ["1", "2"]}
    assert places(listed(scored, table_bytes(pa.table(names)))) == [(0, 1), (0, 2)]
    del names["key"]
    found = listed(scored, table_bytes(pa.table(names)))
    assert (len(found.selection), found.names) == (4, 2)


def test_keys_that_became_numbers_find_their_zeros(tmp_path):
    (tmp_path / "pool").mkdir()
    for shard in ("00000", "00001"):
        samples = [m for n in (7, 12) for m in pair(f"{n:09d}")]
        write_tar(tmp_path / "pool" / f"{shard}.tar", samples)
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    for data in (b"shard,key\n1,12\n", b'{"shard": 1, "key": 12}'):
        assert places(listed(scored, data)) == [(1, 1)]
    assert places(listed(scored, b"shard,key\n00001,000000012\n")) == [(1, 1)]


def test_uids_longer_than_datacomps_are_compared_in_full(tmp_path):
    (tmp_path / "pool").mkdir()
    samples = [m for n in range(2) for m in pair(str(n), uid="f" * 39 + str(n))]
    write_tar(tmp_path / "pool" / "a.tar", samples)
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    assert places(listed(scored, b"f" * 39 + b"1\n")) == [(0, 1)]


def places_of(subset):
    return list(zip(*(column.tolist() for column in subset.selection.places), strict=True))


def test_reads_datacomps_subset_file(repeating):
    subset, out = subset_of(repeating, where="uid IS NOT NULL AND width > 0"), io.BytesIO()
    write_uids(subset, out)
    found = listed(repeating, out.getvalue())
    assert places(found) == places_of(subset)
    assert found.missing == 0


def array_bytes(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b'{"key": ',
        b'{"title": "x"}',
        b"PAR1junk",
        table_bytes(pa.table({"title": ["x"]})),
        array_bytes(np.arange(3.0)),
        array_bytes(np.array([{}]), allow_pickle=True),
    ],
)
def test_refuses_what_is_not_a_list(repeating, data):
    with pytest.raises(SelectionError, match=r"keys\.txt"):
        listed(repeating, data)
