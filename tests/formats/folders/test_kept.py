import json

import pyarrow as pa
import pytest

from clipdre.config import ReadConfig
from clipdre.errors import UsageError
from clipdre.formats.folders.kept import (
    KINDS,
    column_names,
    kept_columns,
    kept_types,
    kinds_stamp,
    samples_stamp,
)
from clipdre.formats.folders.tables import SAMPLE_SCHEMA

TEXT, FLOAT = pa.string(), pa.float64()


class Shard:
    """What stands for a shard's embeddings: its stamp alone."""

    def __init__(self, **values):
        self.values = values

    def stamp(self):
        return kinds_stamp({name: [_json(v) for v in of] for name, of in self.values.items()})


def _json(value):
    return None if value is None else json.dumps(value, ensure_ascii=False)


class TestNames:
    def test_are_those_of_the_fields(self):
        fields = ["punsafe", "LANGUAGE", 'a "b"; DROP', "a,b", "画像"]
        assert column_names(fields) == {field: field for field in fields}

    @pytest.mark.parametrize(
        "field",
        ["key", "Caption", "WIDTH", "log_ratio", "log_ratio_tau", "kl_text_se", "duplicate_rank"],
    )
    def test_of_clipdre_get_a_prefix(self, field):
        assert column_names([field]) == {field: f"json_{field}"}

    @pytest.mark.parametrize("field", ["_clipdre_x", "_CLIPDRE_X", "file_index", "File_Row_Number"])
    def test_that_would_hide_columns_of_queries_get_one_too(self, field):
        assert column_names([field]) == {field: f"json_{field}"}

    @pytest.mark.parametrize("fields", [["a", "a"], ["a", "A"], ["key", "json_key"]])
    def test_that_sql_cannot_tell_apart_are_refused(self, fields):
        with pytest.raises(UsageError, match=r"whose columns have one name: drop one"):
            column_names(fields)

    @pytest.mark.parametrize("field", ["", " "])
    def test_are_needed(self, field):
        with pytest.raises(UsageError, match="has no name"):
            column_names([field])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, -(2**63)], pa.int64(), [1, None, -(2**63)]),
        ([1, 0.5, None], FLOAT, [1.0, 0.5, None]),
        ([2**62 + 1, 0.5], FLOAT, [float(2**62), 0.5]),
        ([True, False, None], pa.bool_(), [True, False, None]),
        (["en", "", None, "a\0b"], TEXT, ["en", "", None, "a\0b"]),
        ([True, 1], TEXT, ["true", "1"]),
        (["en", 1, 0.5, None], TEXT, ["en", "1", "0.5", None]),
        ([[1, 2], {"a": "é"}], TEXT, ["[1, 2]", '{"a": "é"}']),
        ([2**63, 1], TEXT, [str(2**63), "1"]),
        ([float("inf"), 1.5], FLOAT, [float("inf"), 1.5]),
        ([None, None], TEXT, [None, None]),
        (["\\udc80 \\ud800"], TEXT, ["\\udc80 \\ud800"]),
    ],
)
def test_a_column_has_the_narrowest_type_of_its_values(values, kind, expected):
    stored = pa.table({"x": pa.array(map(_json, values), TEXT)})
    for shards in ([Shard(x=values)], [Shard(x=[value]) for value in values]):
        assert kept_types(["x"], shards) == {"x": kind}
    (found,) = kept_columns(stored, {"x": kind}).values()
    assert (found.type, found.to_pylist()) == (kind, expected)


def test_surrogates_are_escaped():
    stored = pa.table({"x": [r'"a\udc80"']})
    assert kept_columns(stored, {"x": TEXT})["x"].to_pylist() == [r"a\udc80"]


def test_shards_without_rows_have_null_columns():
    types = kept_types(["x"], [Shard(x=[1]), Shard()])
    assert kept_columns(pa.table({"key": ["a"]}), types)["x"].equals(pa.nulls(1, pa.int64()))


def test_stamps_differ_by_name_and_type():
    assert json.loads(samples_stamp(ReadConfig(), {})) == SAMPLE_SCHEMA.names
    types = [{"x": TEXT}, {"x": FLOAT}, {"y": TEXT}, {"x": TEXT, "y": TEXT}, {}]
    assert len({samples_stamp(ReadConfig(), each) for each in types}) == 5
    several = ReadConfig(more_captions=("json:b",))
    assert json.loads(samples_stamp(several, {})) == [*SAMPLE_SCHEMA.names, "caption_source"]
    assert Shard(x=[1, "a"]).stamp() == {KINDS: '{"x": ["int", "text"]}'}
