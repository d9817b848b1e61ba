import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import SelectionError
from clipdre.formats.name_lists import read_names


def read(data):
    found = read_names(io.BytesIO(data), "keys.txt")
    return found.kind, found.names.to_pylist()


def parquet(columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def json_lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def json_columns(columns):
    rows = zip(*columns.values(), strict=True)
    return json_lines(*(dict(zip(columns, row, strict=True)) for row in rows))


def array(values, dtype):
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", []),
        (b"\n \n\r\n", []),
        (b"a\nb/c\n", ["a", "b/c"]),
        (b"a\r\n\r\nb", ["a", "b"]),
        (" a b \nключ\u2028x\n".encode(), [" a b ", "ключ\u2028x"]),
        (b"[1]\n", ["[1]"]),
    ],
)
def test_lines_are_names_of_any_kind(data, names):
    assert read(data) == ("any", names)


@pytest.mark.parametrize("as_file", [parquet, json_columns])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"shard": ["s"], "key": ["k"], "uid": ["u"]}, ("pair", ["s/k"])),
        ({"uid": ["u", "v"], "key": ["k", "l"]}, ("uid", ["u", "v"])),
        ({"shard": ["s"], "key": ["k"]}, ("pair", ["s/k"])),
        ({"title": ["t"], "key": ["k"]}, ("key", ["k"])),
        ({"key": [7, 8]}, ("key", ["7", "8"])),
        ({"uid": ["u", None, "v"]}, ("uid", ["u", "v"])),
    ],
)
def test_tables_use_the_most_specific_columns(as_file, rows, expected):
    assert read(as_file(rows)) == expected


def test_blank_json_lines_are_skipped():
    data = b"\n" + json_lines({"key": "a"}) + b"\n\n" + json_lines({"key": "b"}) + b"\n"
    assert read(data) == ("key", ["a", "b"])


def test_datacomp_subset_files_hold_uids():
    uids = [1, 2**64 + 10, 2**128 - 1]
    kind, names = read(array([divmod(uid, 2**64) for uid in uids], "u8,u8"))
    assert (kind, [int(name, 16) for name in names]) == ("uid", uids)
    assert {len(name) for name in names} == {32}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe", "utf-8"),
        (b'{"key": ', "Expecting value"),
        (b'{"key": "a"}\n[1]', "not every line is a JSON object"),
        (json_lines({"title": "t"}), "it has no key and no uid"),
        (
            parquet({"title": ["t"], "url": ["u"]}),
            "it has columns title, url, but no key and no uid",
        ),
        (b"PAR1junk", "Parquet"),
        (array([1, 2], "i8"), "dtype int64 is not DataComp's"),
        (array([1, 2], "i8")[:20], "array"),
    ],
)
def test_other_files_are_refused(data, reason):
    with pytest.raises(SelectionError, match=reason) as caught:
        read(data)
    assert caught.value.problem.startswith("keys.txt cannot be read as a list of samples: ")
    assert caught.value.cure.startswith("pass keys or uids")


def test_pickled_arrays_are_refused():
    out = io.BytesIO()
    np.save(out, np.array([{"uid": "1"}]), allow_pickle=True)
    with pytest.raises(SelectionError, match="allow_pickle=False"):
        read(out.getvalue())
