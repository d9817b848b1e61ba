import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import InputError
from clipdre.formats.folders.precomputed import (
    ClipRetrievalLayout,
    DataCompLayout,
    UnreadableError,
    find_layout,
    sample_table,
)
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hashes

ROWS = 3
VECTORS = np.arange(24, dtype=np.float16).reshape(4, ROWS, 2)  # b32 and l14, images and texts


@pytest.fixture
def datacomp(tmp_path):
    """One file of DataComp metadata, a table or arrays alone, and hidden files."""
    table = {
        "uid": ["a", "b", "c"],
        "text": ["x", "y", "z"],
        "original_width": [1, 2, 3],
        "similarity": [9, 9, 9],
        "offset": [7, 7, 7],
        "url": ["u", "v", "w"],
    }
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    names = ("b32_img", "b32_txt", "l14_img", "l14_txt")
    np.savez(tmp_path / "b.npz", **dict(zip(names, VECTORS, strict=True)))
    pq.write_table(pa.table(table), tmp_path / "alone.parquet")
    np.savez(tmp_path / "z.npz", b32_img=VECTORS[0])
    for suffix in ("parquet", "npz"):  # as macOS leaves them
        (tmp_path / f"._b.{suffix}").write_bytes(b"AppleDouble")
    return tmp_path


@pytest.fixture
def clip_retrieval(tmp_path):
    """Two files of clip-retrieval's output."""
    for n in (0, 1):
        for name, vectors in (("img", VECTORS[n]), ("text", VECTORS[n + 2])):
            (tmp_path / f"{name}_emb").mkdir(exist_ok=True)
            np.save(tmp_path / f"{name}_emb" / f"{name}_emb_{n}.npy", vectors)
        (tmp_path / "metadata").mkdir(exist_ok=True)
        table = {"image_path": [f"{n}{k}" for k in range(ROWS)], "caption": ["c"] * ROWS}
        table |= {"key": [0] * ROWS, "url": ["u"] * ROWS}
        pq.write_table(pa.table(table), tmp_path / "metadata" / f"metadata_{n}.parquet")
    return tmp_path


@pytest.mark.parametrize(("architecture", "first"), [("b32", 0), ("l14", 2)])
def test_reads_datacomp_metadata(datacomp, architecture, first):
    layout = find_layout(datacomp, architecture)
    assert isinstance(layout, DataCompLayout)
    assert layout.files() == [datacomp / "b.parquet"]
    images, texts, table = layout.read(datacomp / "b.parquet")
    np.testing.assert_array_equal(images, VECTORS[first])
    np.testing.assert_array_equal(texts, VECTORS[first + 1])
    assert table.to_pydict() == {
        "uid": ["a", "b", "c"],
        "caption": ["x", "y", "z"],
        "width": [1, 2, 3],
        "source_similarity": [9, 9, 9],
        "source_offset": [7, 7, 7],
        "url": ["u", "v", "w"],
        "key": ["a", "b", "c"],
    }


@pytest.mark.parametrize("name", ["Similarity", "KEY", "File_Index", "_clipdre_by_0"])
def test_names_that_sql_would_take_for_ours_get_a_prefix(datacomp, name):
    table = {"uid": ["a", "b", "c"], name: [1, 2, 3]}
    pq.write_table(pa.table(table), datacomp / "b.parquet")
    _, _, found = DataCompLayout(datacomp, "l14").read(datacomp / "b.parquet")
    assert found.column_names == ["uid", f"source_{name}", "key"]


@pytest.mark.parametrize("names", [("text", "caption"), ("caption", "text")])
def test_the_layouts_own_column_wins_over_one_of_our_name(datacomp, names):
    table = {"uid": ["a", "b", "c"]} | {name: [name] * ROWS for name in names}
    pq.write_table(pa.table(table), datacomp / "b.parquet")
    _, _, found = DataCompLayout(datacomp, "l14").read(datacomp / "b.parquet")
    assert sorted(found.column_names) == ["caption", "key", "uid"]
    assert found["caption"].to_pylist() == ["text"] * ROWS


def test_reads_clip_retrievals_output(clip_retrieval):
    layout = find_layout(clip_retrieval, "l14")
    assert isinstance(layout, ClipRetrievalLayout)
    assert [path.name for path in layout.files()] == ["metadata_0.parquet", "metadata_1.parquet"]
    images, texts, table = layout.read(layout.files()[1])
    np.testing.assert_array_equal(images, VECTORS[1])
    np.testing.assert_array_equal(texts, VECTORS[3])
    assert table.to_pydict() == {
        "key": ["10", "11", "12"],
        "caption": ["c"] * 3,
        "source_key": [0] * 3,
        "url": ["u"] * 3,
    }


@pytest.mark.parametrize(
    "damage", ["no zip", "no array", "no table", "two uids", "text", "complex", "no dimensions"]
)
def test_damaged_datacomp_files_are_unreadable(datacomp, damage):
    if damage == "no zip":
        (datacomp / "b.npz").write_bytes(b"PK not a zip")
    elif damage == "no array":
        np.savez(datacomp / "b.npz", b32_img=VECTORS[0])
    elif damage == "no table":
        (datacomp / "b.parquet").write_bytes(b"PAR1")
    elif damage == "two uids":
        twice = pa.table([["x"] * ROWS] * 2, names=["uid", "uid"])
        pq.write_table(twice, datacomp / "b.parquet")
    else:
        values = {"text": "x", "complex": 1j, "no dimensions": 1.0}[damage]
        shape = ROWS if damage == "no dimensions" else (ROWS, 2)
        np.savez(datacomp / "b.npz", l14_img=np.full(shape, values), l14_txt=VECTORS[0])
    with pytest.raises(UnreadableError):
        DataCompLayout(datacomp, "l14").read(datacomp / "b.parquet")


@pytest.mark.parametrize("damage", ["missing array", "damaged array", "damaged table"])
def test_damaged_clip_retrieval_files_are_unreadable(clip_retrieval, damage):
    if damage == "missing array":
        (clip_retrieval / "img_emb" / "img_emb_0.npy").unlink()
    elif damage == "damaged array":
        (clip_retrieval / "text_emb" / "text_emb_0.npy").write_bytes(b"\x93NUMPY" * 50)
    else:
        (clip_retrieval / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadableError):
        ClipRetrievalLayout(clip_retrieval).read(clip_retrieval / "metadata" / "metadata_0.parquet")


@pytest.mark.parametrize("layout", ["datacomp", "clip_retrieval"])
def test_pickled_arrays_are_not_loaded(layout, request):
    folder = request.getfixturevalue(layout)
    pickled = np.array([{"x": 1}] * ROWS, dtype=object)
    np.savez(folder / "b.npz", l14_img=pickled, l14_txt=VECTORS[0])
    (folder / "img_emb").mkdir(exist_ok=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", pickled)
    found = find_layout(folder, "l14")
    with pytest.raises(UnreadableError, match=r"allow_pickle|Python objects"):
        found.read(found.files()[0])


def test_folders_without_a_known_layout_are_refused(tmp_path):
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="holds no embeddings in a known layout") as caught:
        find_layout(tmp_path, "l14")
    assert "metadata/metadata_<n>.parquet" in caught.value.cure


def test_sample_tables_have_our_columns_first():
    found, unnamed = sample_table(
        pa.table({"extra": [[1], None], "width": pa.array([5, 6], pa.int64()), "key": ["a", "b"]}),
        "shard-7",
    )
    assert unnamed == 0
    assert found.column_names == [*SAMPLE_SCHEMA.names, "extra"]
    assert found.select(SAMPLE_SCHEMA.names).schema.equals(SAMPLE_SCHEMA)
    assert found.to_pylist() == [
        {
            **dict.fromkeys(SAMPLE_SCHEMA.names),
            "key": key,
            "shard": "shard-7",
            "width": width,
            "key_hash": key_hash,
            "extra": extra,
        }
        for key, width, key_hash, extra in zip(
            "ab", (5, 6), key_hashes("shard-7", ["a", "b"]).tolist(), ([1], None), strict=True
        )
    ]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("width", pa.array([1.0, None, 3.0]), [1, None, 3]),
        ("width", pa.array([1.0, float("nan"), 3.5]), [1, None, 3]),  # pandas' missing value
        ("width", pa.array([2**31 - 1, 2**31, -(2**40)]), [2**31 - 1, None, None]),
        ("width", pa.array([float("inf"), 2.0**31, -1e300]), [None, None, None]),
        ("width", pa.array(["12", "x", None]), [None, None, None]),
        ("width", pa.array([[1], [2], [3]]), [None, None, None]),
        ("width", pa.nulls(3), [None, None, None]),
        ("caption", pa.array([1, 2, None]), ["1", "2", None]),
        ("caption", pa.array([["a"], ["b"], None]), [None, None, None]),
        ("caption", pa.array([{"a": 1}] * 3), [None, None, None]),
        ("caption", pa.array([b"a", b"\xff", None]), ["a", "\\udcff", None]),
        ("caption", pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        ("uid", pa.array([b"aa", b"\xff.", b"bb"], pa.binary(2)), ["aa", "\\udcff.", "bb"]),
    ],
)
def test_columns_of_another_type_are_converted_and_misfits_are_null(name, values, expected):
    columns = pa.chunked_array([values.slice(0, 2), values.slice(2)])
    found, _ = sample_table(pa.table({"key": ["a", "b", "c"], name: columns}), "s")
    assert found.schema.equals(SAMPLE_SCHEMA)
    assert found[name].to_pylist() == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, ["0", "1", "2"]),
        (["a", None, "b"], ["a", "1", "b"]),
        ([["a"], ["b"], ["c"]], ["0", "1", "2"]),
        ([7.0, 8.0, None], ["7", "8", "2"]),
    ],
)
def test_rows_without_a_key_are_named_by_their_number(keys, expected):
    table = pa.table({"x": [1, 2, 3]} | ({"key": keys} if keys else {}))
    found, unnamed = sample_table(table, "s")
    assert found["key"].to_pylist() == expected
    assert found["key_hash"].to_pylist() == key_hashes("s", expected).tolist()
    assert unnamed == sum(key == str(n) for n, key in enumerate(expected))


def test_another_key_stands_in_for_a_missing_one(datacomp, clip_retrieval):
    pq.write_table(pa.table({"key": ["7", "8", "9"], "text": ["x"] * 3}), datacomp / "b.parquet")
    metadata = clip_retrieval / "metadata" / "metadata_0.parquet"
    pq.write_table(pa.table({"key": ["7", "8", "9"], "url": ["u"] * 3}), metadata)
    for layout, path in (
        (DataCompLayout(datacomp, "l14"), datacomp / "b.parquet"),
        (ClipRetrievalLayout(clip_retrieval), metadata),
    ):
        _, _, table = layout.read(path)
        assert table["key"].to_pylist() == ["7", "8", "9"]
        assert "source_key" not in table.column_names


def test_names_that_differ_from_ours_in_case_get_a_prefix(datacomp):
    """SQL would take them for one column."""
    names = ("uid", "Width", "Log_Ratio", "KEY", "URL")
    pq.write_table(pa.table({name: ["x"] * ROWS for name in names}), datacomp / "b.parquet")
    _, _, table = DataCompLayout(datacomp, "l14").read(datacomp / "b.parquet")
    expected = ["uid", "source_Width", "source_Log_Ratio", "source_KEY", "URL", "key"]
    assert table.column_names == expected
