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
from clipdre.formats.folders.tables import SAMPLE_SCHEMA

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


@pytest.mark.parametrize("damage", ["no zip", "no array", "no table", "no uid"])
def test_damaged_datacomp_files_are_unreadable(datacomp, damage):
    if damage == "no zip":
        (datacomp / "b.npz").write_bytes(b"PK not a zip")
    elif damage == "no array":
        np.savez(datacomp / "b.npz", b32_img=VECTORS[0])
    elif damage == "no table":
        (datacomp / "b.parquet").write_bytes(b"PAR1")
    else:
        pq.write_table(pa.table({"text": ["x"] * ROWS}), datacomp / "b.parquet")
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
    found = sample_table(
        pa.table({"extra": [[1], None], "width": pa.array([5, 6], pa.int64()), "key": ["a", "b"]}),
        "shard-7",
        np.array([2**63, 1], np.uint64),
    )
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
        for key, width, key_hash, extra in (("a", 5, 2**63, [1]), ("b", 6, 1, None))
    ]
