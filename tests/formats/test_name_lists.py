import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from clipdre.errors import SelectionError
from clipdre.formats.name_lists import read_names


def read(data):
    return read_names(io.BytesIO(data), "keys.txt").names.to_pydict()


def parquet(columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def json_lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def json_columns(columns):
    rows = zip(*columns.values(), strict=True)
    return json_lines(*(dict(zip(columns, row, strict=True)) for row in rows))


def arrow(columns, new=pa.ipc.new_stream):
    out = io.BytesIO()
    table = pa.table(columns)
    with new(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def arrow_file(columns):
    return arrow(columns, pa.ipc.new_file)


def csv(columns):
    out = io.BytesIO()
    pa.csv.write_csv(pa.table(columns), out)
    return out.getvalue()


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
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"a\nb\0c\r\0\n", ["a\nb", "c\r"]),
        (b"0012\n7\n", ["0012", "7"]),
        (b"s/a,key\ns/b,c\n", ["s/a,key", "s/b,c"]),
        (array(["a/b", "c"], "U3"), ["a/b", "c"]),
        (array(["a/b", "c"], "S3"), ["a/b", "c"]),
    ],
)
def test_lines_are_names_of_any_kind(data, names):
    assert read(data) == {"name": names}


@pytest.mark.parametrize("as_file", [parquet, arrow, arrow_file, json_columns, csv])
@pytest.mark.parametrize("name", ["file_name", "filename", "image_path", "path"])
def test_columns_of_file_names_are_names_of_any_kind(as_file, name):
    assert read(as_file({"score": [1, 2], name: ["0/7.jpg", "8"]})) == {"name": ["0/7.jpg", "8"]}
    both = read(as_file({name: ["a.jpg"], "key": ["k"]}))
    assert both == {"key": ["k"]}


@pytest.mark.parametrize("as_file", [parquet, arrow, arrow_file, json_columns, csv])
@pytest.mark.parametrize(
    "columns",
    [
        {"url": ["x"], "uid": ["u"], "key": ["k"], "shard": ["s"]},
        {"uid": ["u", None, "w"], "key": ["a\nb", '"', None]},
        {"key": ["0012", "7"]},
        {"key": [7, 12]},
        {"shard": [0, 1], "key": [5, None]},
    ],
)
def test_tables_name_samples_by_all_their_columns(as_file, columns):
    found = read(as_file(columns))
    assert found == {n: columns[n] for n in ("shard", "key", "uid") if n in columns}


@pytest.mark.parametrize(
    "data",
    [
        b"key,uid\r\n007,1\r\n\r\n8,\r\n",
        b'\xef\xbb\xbf"uid"\t"key"\n"1"\t"007"\n\t"8"\n',
        b";key;uid\n0;007;1\n1;8;\n",
        b'"UID", Key \r\n1,007\r\n,8\r\n',
        "uid\tkey\r\n1\t007\r\n\t8\r\n".encode("utf-16"),
        b"\xfe\xff" + "key,uid\n007,1\n8,\n".encode("utf-16-be"),
    ],
)
def test_csv_comes_from_any_tool(data):
    assert read(data) == {"key": ["007", "8"], "uid": ["1", None]}


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"key\n12\n0\n", [12, 0]),
        (b"key\n" + b"9" * 30 + b"\n", ["9" * 30]),
        (json_lines({"key": 12}, {"key": "x"}), ["12", "x"]),
        (json_lines({"key": "12"}), ["12"]),
        (json_lines({"key": 2**70}), [str(2**70)]),
        (json_lines({"key": [1]}), ["[1]"]),
        (array([3, 4], "i4"), [3, 4]),
        (parquet({"key": pa.array([1.0, None])}), [1.0, None]),
    ],
)
def test_keys_may_have_become_numbers(data, keys):
    assert read(data) == {"key": keys}


def test_blank_json_lines_are_skipped():
    data = b"\n" + json_lines({"key": "a"}) + b"\n\n" + json_lines({"key": "b"}) + b"\n"
    assert read(data) == {"key": ["a", "b"]}


def test_datacomp_subset_files_hold_uids():
    uids = [1, 2**64 + 10, 2**128 - 1]
    found = read(array([divmod(uid, 2**64) for uid in uids], "u8,u8"))
    assert found == {"uid": [f"{uid:032x}" for uid in uids]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xfa\xfe", "utf-8"),
        (b"\xff\xfea", "utf-16"),
        (b'{"key": ', "Expecting value"),
        (b'{"key": "a"}\n[1]', "not every line is a JSON object"),
        (json_lines({"title": "t"}), "it has no key and no uid"),
        (json_lines({"shard": "s"}), "it has columns shard, but no key and no uid"),
        (
            parquet({"title": ["t"], "url": ["u"]}),
            "it has columns title, url, but no key and no uid",
        ),
        (b"PAR1junk", "Parquet"),
        (parquet({"key": ["k"] * 99}).replace(b"k", b"\xff", 1), "UTF8"),
        (array([1.5, 2], "f8"), "dtype float64 is not DataComp's"),
        (array([[1], [2]], "i8"), "dtype int64 is not DataComp's"),
        (b"\xff\xff\xff\xff\x98\0\0\0", "Expected to read 152 metadata bytes"),
        (b"ARROW1\0\0", "File is too small"),
        (b"key,uid\na\n", "CSV parse error"),
        (json_lines({"key": None}), "it has no key and no uid"),
        (b'{"key": ' + b"[" * 9999, "recursion"),
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


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (300000000,), }", b""),
        ("{'descr': (", b""),
        ("{'descr': '''", b""),
        ("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", b"\xff" * 4),
    ],
)
def test_arrays_of_nothing_and_odd_headers_are_refused(header, data):
    line = header.ljust(117).encode() + b"\n"
    array = b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data
    with pytest.raises(SelectionError, match="cannot be read as a list of samples"):
        read_names(io.BytesIO(array), "list.npy")


def test_small_lists_that_expand_to_gigabytes_are_refused():
    key = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(3000, np.int32)), pa.array(["x" * 2**20])
    )
    for data in (parquet({"key": key}), arrow({"key": key}), arrow_file({"key": key})):
        assert len(data) < 2**22
        with pytest.raises(SelectionError, match=r"bytes expand to 3,145,728,000"):
            read(data)


@pytest.mark.parametrize("write", [parquet, arrow, arrow_file])
def test_dictionaries_are_read(write):
    keys = pa.array(["a", None, "b", "a"]).dictionary_encode()
    numbers = pa.array([7, 8, 7, None]).dictionary_encode()
    assert read(write({"key": keys, "shard": numbers})) == {
        "shard": [7, 8, 7, None],
        "key": ["a", None, "b", "a"],
    }
