import csv
import io
import json
import math

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
    write_tar_stream,
    write_uids,
)
from clipdre.errors import InputError, OutputError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.name_lists import read_names
from clipdre.selecting.listed import select_listed
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import write_pool
from tests.emitting.contents import expected_members, members
from tests.helpers import pair, rows_of, subset_of, tiny_score, write_score_folder, write_tar


def written(writer, subset):
    out = io.BytesIO()
    writer(subset, out)
    return out.getvalue()


def folder_of(path, **columns):
    """Scores with these columns, and two samples."""
    columns = {"key": ["a", "b"], "uid": [None] * 2, "shard": ["s"] * 2} | columns
    hashes = pa.array([1, 2], pa.uint64())
    return path, write_score_folder(path, [columns | {"key_hash": hashes}])


def test_every_format_holds_the_same_rows(scored):
    subset = subset_of(scored, where="similarity > 0.5")
    table = rows_of(subset).drop_columns(["file_index", "file_row_number"])
    names = [f"{row['shard']}/{row['key']}" for row in table.to_pylist()]
    assert written(write_keys, subset).decode().splitlines() == names
    assert pq.read_table(io.BytesIO(written(write_parquet, subset))).equals(table)
    with pa.ipc.open_stream(written(write_arrow, subset)) as reader:
        assert reader.read_all().equals(table)
    lines = [json.loads(line) for line in written(write_jsonl, subset).splitlines()]
    assert lines == table.to_pylist()
    rows = list(csv.DictReader(io.StringIO(written(write_csv, subset).decode())))
    assert [row["caption"] for row in rows] == table["caption"].to_pylist()
    found = np.array([float(row["kl_text"]) for row in rows], np.float32)
    np.testing.assert_array_equal(found, table["kl_text"].to_numpy())
    assert len(table) == len(subset.selection)


def test_a_list_of_lines_never_names_a_sample_of_another_shard(tmp_path):
    """The sample b/c of shard a is a/b/c, and so is c of shard a/b."""
    (tmp_path / "pool" / "a").mkdir(parents=True)
    write_tar(tmp_path / "pool" / "a.tar", [*pair("b/c", "one", 1), *pair("d", "two", 2)])
    write_tar(tmp_path / "pool" / "a" / "b.tar", [*pair("c", "three", 3), *pair("e", "four", 4)])
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    others = subset_of(scored, where="key IN ('d', 'e')")
    assert sorted(written(write_keys, others).decode().splitlines()) == ["a/b/e", "a/d"]
    with pytest.raises(OutputError, match="samples of two shards are 'a/b/c' in a list") as caught:
        written(write_keys, subset_of(scored, where="key = 'c'"))
    assert caught.value.cure == "set `format` to jsonl"
    rows = written(write_jsonl, subset_of(scored, where="key = 'c'"))
    listed = read_names(io.BytesIO(rows), "rows")
    found = select_listed(ScoreQuery(ScoreFolder(scored[0]), scored[1]), listed, "rows")
    assert len(found.selection) == 1


@pytest.fixture
def odd(tmp_path):
    """Scores with values that formats represent differently or not at all."""
    columns = {
        "key": ["a,b", 'q"uote', "line\nbreak", "üñ"],
        "uid": ["f" * 32, None, "1", "no"],
        "shard": ["s"] * 4,
        "key_hash": pa.array([1, 2, 3, 4], pa.uint64()),
        "x": [math.nan, math.inf, None, 0.1],
        "boxes": pa.array([[[0.5]], None, [], [[1.0, 2.0]]], pa.list_(pa.list_(pa.float64()))),
    }
    return tmp_path, write_score_folder(tmp_path, [columns])


def test_formats_keep_odd_values(odd):
    subset = subset_of(odd)
    lines = [json.loads(line) for line in written(write_jsonl, subset).splitlines()]
    assert [line["x"] for line in lines] == [None, None, None, 0.1]
    assert [line["boxes"] for line in lines] == [[[0.5]], None, [], [[1.0, 2.0]]]
    rows = list(csv.DictReader(io.StringIO(written(write_csv, subset).decode(), newline="")))
    assert [row["key"] for row in rows] == ["a,b", 'q"uote', "line\nbreak", "üñ"]
    assert json.loads(rows[3]["boxes"]) == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("values", "in_json", "in_csv"),
    [
        (pa.array([b"\xff\0", None]), ["/wA=", None], ["/wA=", ""]),
        (pa.array([[1.5, math.nan], [math.inf]]), [[1.5, None], [None]], ["[1.5, null]", "[null]"]),
        (pa.array([{"é": b"a"}, None]), [{"é": "YQ=="}, None], ['{"é": "YQ=="}', ""]),
        (
            pa.array([{"x": [{"y": math.nan}]}, {"x": []}]),
            [{"x": [{"y": None}]}, {"x": []}],
            ['{"x": [{"y": null}]}', '{"x": []}'],
        ),
        (
            pa.array([[("a", math.nan)], []], pa.map_(pa.string(), pa.float64())),
            [[["a", None]], []],
            ['[["a", null]]', "[]"],
        ),
        (
            pa.array([1, None], pa.timestamp("ns")),
            ["1970-01-01 00:00:00.000000001", None],
            ["1970-01-01 00:00:00.000000001", ""],
        ),
        (pa.array(["x", None]).dictionary_encode(), ["x", None], ["x", ""]),
        (pa.array([True, None]), [True, None], ["true", ""]),
        (pa.array(["1.50", None]).cast(pa.decimal128(4, 2)), ["1.50", None], ["1.50", ""]),
    ],
)
def test_text_formats_hold_values_of_any_type(tmp_path, values, in_json, in_csv):
    subset = subset_of(folder_of(tmp_path, value=values))
    lines = written(write_jsonl, subset).splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [line["value"] for line in strict] == in_json
    rows = list(csv.DictReader(io.StringIO(written(write_csv, subset).decode(), newline="")))
    assert [row["value"] for row in rows] == in_csv


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\0"])
def test_names_that_lines_cannot_hold_are_refused(tmp_path, end):
    subset = subset_of(folder_of(tmp_path, key=["a", f"b{end}s/other"]))
    with pytest.raises(OutputError) as caught:
        written(write_keys, subset)
    assert caught.value.problem == (
        f"a list of lines cannot hold {f's/b{end}s/other'!r}, which contains the end of a line"
    )
    assert caught.value.cure == "set `format` to jsonl"
    assert len(written(write_jsonl, subset).splitlines()) == 2


def test_warns_of_samples_without_a_uid(odd):
    with pytest.warns(UserWarning, match=r"2 of 4 kept .* instance s/q\"uote\) and are left"):
        array = np.load(io.BytesIO(written(write_uids, subset_of(odd))))
    assert array.tolist() == [(0, 1), (2**64 - 1, 2**64 - 1)]


def test_tar_stream_holds_the_kept_samples(scored, pool):
    subset = subset_of(scored, by="similarity", top=25)
    assert members(written(write_tar_stream, subset)) == expected_members(subset, pool)


def test_tar_stream_has_unique_keys(colliding):
    names = [name for name, _, _ in members(written(write_tar_stream, subset_of(colliding)))]
    assert len(set(names)) == len(names) == 12


def test_tar_stream_needs_its_sources(tmp_path):
    write_pool(tmp_path / "p", 10, seed=1, noise={})
    scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
    (tmp_path / "p" / "00000.tar").unlink()
    with pytest.raises(InputError, match=r"00000\.tar"):
        written(write_tar_stream, subset_of(scored))
