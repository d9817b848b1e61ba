"""A score folder is a table over the original tars: other tools read images where they are."""

import gzip
import tarfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pytest

import clipdre
from clipdre.config import ReadConfig
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from clipdre.formats.tars.shards import read_samples
from tests.helpers import pair, png, tiny_score, write_tar

SPAN = ["path", "image_offset", "image_nbytes"]


@pytest.fixture(scope="module")
def pictures(pool):
    """The encoded images of `pool`, in pool order."""
    tars = sorted(pool.glob("*.tar"))
    return [s.image for tar in tars for s in read_samples(str(tar), ReadConfig())]


def test_arrow_reads_images_in_place(scored, pictures):
    table = clipdre.open_scores(scored[0]).dataset().to_table(columns=SPAN)
    disk, found = pyarrow.fs.LocalFileSystem(), []
    for path, offset, nbytes in zip(*(column.to_pylist() for column in table), strict=True):
        with disk.open_input_file(path) as file:
            found.append(file.read_at(nbytes, offset))
    assert found == pictures


def test_duckdb_finds_images_and_reads_them(scored, pictures):
    best = duckdb.sql(f"""
        SELECT key, log_ratio, blob.content[image_offset + 1 : image_offset + image_nbytes]
        FROM (FROM '{scored[0]}/scores/*.parquet' ORDER BY log_ratio DESC LIMIT 9) AS scores
        JOIN read_blob(list_value({", ".join(f"'{path}'" for path in paths(scored[0]))})) AS blob
        ON blob.filename = scores.path
    """).fetchall()
    table = clipdre.open_scores(scored[0]).dataset().to_table(columns=["key", "log_ratio"])
    top = pc.select_k_unstable(table["log_ratio"], 9, [("", "descending")]).to_pylist()
    keys = table["key"].to_pylist()
    assert {(key, image) for key, _, image in best} == {(keys[n], pictures[n]) for n in top}


def paths(folder):
    return clipdre.open_scores(folder).dataset().to_table(columns=["path"])["path"].unique()


def test_daft_reads_images_in_place(scored, pictures):
    daft = pytest.importorskip("daft")
    table = clipdre.open_scores(scored[0]).dataset().to_table(columns=SPAN)
    for n in (0, 150, 299):
        path, offset, nbytes = (column[n].as_py() for column in table)
        with daft.File(path, position=offset, size=nbytes).open() as file:
            assert file.read() == pictures[n]


def test_a_compressed_tar_has_no_place_for_an_image(tmp_path):
    plain = write_tar(tmp_path / "a.tar", pair("1"))
    (tmp_path / "b.tar").write_bytes(gzip.compress(write_tar(plain, pair("2")).read_bytes()))
    tiny_score(tmp_path, tmp_path / "s")
    table = clipdre.open_scores(tmp_path / "s").dataset().to_table(columns=SPAN)
    assert table.to_pylist() == [
        {"path": str(plain), "image_offset": 512, "image_nbytes": len(png())},
        {"path": str(tmp_path / "b.tar"), "image_offset": None, "image_nbytes": None},
    ]


def test_embeddings_made_elsewhere_have_no_places(scored, tmp_path):
    clipdre.score_embeddings(scored[0] / "embeddings", tmp_path / "s", logit_scale=30.0)
    table = clipdre.open_scores(tmp_path / "s").dataset().to_table()
    assert [table[name].null_count for name in SPAN] == [300] * 3
    assert table.select(SAMPLE_SCHEMA.names).schema.equals(SAMPLE_SCHEMA)


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").mkdir()
    write_tar(tmp_path / "pool" / "a.tar", [*pair("1"), *pair("2")])
    tiny_score(Path("pool"), tmp_path / "s")
    assert paths(tmp_path / "s").to_pylist() == [str(tmp_path / "pool" / "a.tar")]


def test_spans_of_the_rows_are_those_of_one_image_each(tmp_path):
    """A PAX header before the image, another member between, and a key that repeats."""
    members = [
        ("é" * 90 + ".png", png(1)),
        ("é" * 90 + ".txt", b"red"),
        ("b.npy", b"x" * 700),
        ("b.png", png(2)),
        ("b.txt", b"blue"),
        ("c.txt", b"green"),
        ("c.png", png(3)),
        ("b.png", png(4)),
        ("b.txt", b"blue"),
    ]
    tar = write_tar(tmp_path / "a.tar", members, format=tarfile.PAX_FORMAT)
    tiny_score(tmp_path, tmp_path / "s")
    table = clipdre.open_scores(tmp_path / "s").dataset().to_table(columns=SPAN[1:])
    file = pa.BufferReader(tar.read_bytes())
    spans = zip(*(column.to_pylist() for column in table), strict=True)
    found = [file.read_at(nbytes, offset) for offset, nbytes in spans]
    assert found == [png(n) for n in (1, 2, 3, 4)]


def test_a_pool_that_moved_gets_its_new_paths(tmp_path):
    (tmp_path / "old").mkdir()
    write_tar(tmp_path / "old" / "a.tar", [*pair("1"), *pair("2", "blue star", seed=2)])
    tiny_score(tmp_path / "old", tmp_path / "s")
    before = clipdre.open_scores(tmp_path / "s").to_arrow()
    (tmp_path / "old").rename(tmp_path / "new")
    tiny_score(tmp_path / "new", tmp_path / "s")
    after = clipdre.open_scores(tmp_path / "s").to_arrow()
    assert after["path"].to_pylist() == [str(tmp_path / "new" / "a.tar")] * 2
    assert after.drop_columns("path").equals(before.drop_columns("path"))
