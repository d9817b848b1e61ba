import os
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipdre.core.modality import Modality
from clipdre.errors import ScoresError
from clipdre.formats.folders.embeddings import EmbeddingFiles, StoredPool, embedding_files
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from tests.core.oracle import unit_rows

SIZES = (5, 0, 3, 0, 4)


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    vectors = unit_rows(rng, sum(SIZES), 16).astype(np.float16)
    files = [EmbeddingFiles(tmp_path, n, len(SIZES)) for n in range(len(SIZES))]
    start = 0
    for file, size in zip(files, SIZES, strict=True):
        part = vectors[start : start + size]
        rows = [{"key": str(n), "key_hash": 100 + size - 1 - n} for n in range(size)]
        samples = pa.Table.from_pylist(rows, SAMPLE_SCHEMA)
        file.write(part, -part, samples, {"clipdre.encoded": "yes"})
        start += size
    return files, torch.nn.functional.normalize(torch.from_numpy(vectors.astype(np.float32)))


def test_file_names_are_clip_retrievals(tmp_path):
    file = EmbeddingFiles(tmp_path, 7, 100)
    assert file.array(Modality.IMAGE) == tmp_path / "img_emb" / "img_emb_007.npy"
    assert file.array(Modality.TEXT) == tmp_path / "text_emb" / "text_emb_007.npy"
    assert file.metadata == tmp_path / "metadata" / "metadata_007.parquet"
    assert EmbeddingFiles(tmp_path, 7, 99).array(Modality.IMAGE).name == "img_emb_07.npy"


def test_reads_any_rows_across_shards(stored):
    files, vectors = stored
    pool = StoredPool(files)
    assert len(pool) == 12
    assert pool.starts == [0, 5, 5, 8, 8, 12]
    for start in range(12):
        for stop in range(start + 1, 13):
            assert torch.equal(pool.read(Modality.IMAGE, start, stop), vectors[start:stop])
    assert torch.equal(pool.read(Modality.TEXT, 3, 9), -vectors[3:9])


def test_takes_rows_in_any_order(stored):
    files, vectors = stored
    rows = np.array([8, 0, 4, 11, 5, 7, 4])
    assert torch.equal(
        StoredPool(files).take(Modality.IMAGE, rows), vectors[torch.from_numpy(rows)]
    )


def test_tiles_cover_the_pool_in_order(stored):
    files, vectors = stored
    tiles = list(StoredPool(files).tiles(Modality.IMAGE, 5))
    assert [start for start, _ in tiles] == [0, 5, 10]
    assert torch.equal(torch.cat([tile for _, tile in tiles]), vectors)


def test_rows_have_unit_length_despite_fp16(stored):
    files, _ = stored
    norms = StoredPool(files).read(Modality.IMAGE, 0, 12).norm(dim=1)
    assert (norms - 1).abs().max() < 1e-6


def test_stamps_and_samples_are_read_back(stored, tmp_path):
    files, _ = stored
    assert files[0].stamp() == {"clipdre.encoded": "yes"}
    assert files[0].samples()["key"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert files[2].hashes().tolist() == [102, 101, 100]
    assert files[1].hashes().tolist() == []
    assert EmbeddingFiles(tmp_path / "none", 0, 1).stamp() == {}


def test_metadata_names_keys_as_clip_retrieval_does(stored):
    files, _ = stored
    table = pq.read_table(files[0].metadata)
    assert table.column_names == ["image_path", *SAMPLE_SCHEMA.names[1:]]
    assert files[0].samples().column_names == SAMPLE_SCHEMA.names


def test_vectors_are_stored_as_fp16(stored):
    files, vectors = stored
    stored_images = np.load(files[4].array(Modality.IMAGE))
    assert stored_images.dtype == np.float16
    np.testing.assert_allclose(stored_images, vectors[8:], atol=1e-3)


def test_lists_the_files_of_all_shards(tmp_path):
    files = embedding_files(tmp_path, 11)
    assert [file.metadata.name for file in files] == [
        f"metadata_{n:02d}.parquet" for n in range(11)
    ]


def test_empty_pools_and_ranges_have_no_rows(stored):
    files, _ = stored
    pool = StoredPool(files)
    assert pool.read(Modality.IMAGE, 4, 4).shape == (0, 16)
    assert pool.take(Modality.IMAGE, np.array([], np.int64)).shape == (0, 16)
    empty = StoredPool(files[1:2])
    assert (len(empty), empty.dim) == (0, 16)
    assert list(empty.tiles(Modality.TEXT, 4)) == []


def test_no_file_stays_open_or_mapped(stored, tmp_path):
    files, vectors = stored
    opened = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 3, hard))
    try:
        pool = StoredPool(files * 20)
        tiles = torch.cat([tile for _, tile in pool.tiles(Modality.IMAGE, 7)])
        taken = pool.take(Modality.TEXT, np.arange(0, len(pool), 5))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert torch.equal(tiles, vectors.repeat(20, 1))
    assert torch.equal(taken, -vectors.repeat(20, 1)[::5])
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()


@pytest.mark.parametrize("change", ["shorter", "longer", "other", "missing"])
def test_damaged_vectors_are_refused(stored, change):
    files, _ = stored
    path = files[2].array(Modality.TEXT)
    content = path.read_bytes()
    path.unlink()
    if change != "missing":
        path.write_bytes({"shorter": content[:-1], "longer": content * 2, "other": b"x"}[change])
    with pytest.raises(ScoresError, match=r"text_emb_2\.npy is damaged"):
        StoredPool(files).read(Modality.TEXT, 0, 12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(stored, value):
    files, _ = stored
    path = files[2].array(Modality.TEXT)
    vectors = np.load(path)
    vectors[1, 3] = value
    np.save(path, vectors)
    with pytest.raises(
        ScoresError, match=r"text_emb_2\.npy is damaged \(not all numbers are finite"
    ):
        StoredPool(files).read(Modality.TEXT, 0, 12)


@pytest.mark.parametrize("array", [np.zeros((3, 16)), np.zeros(48, np.float16), b"", None])
def test_other_arrays_in_the_place_of_vectors_are_refused(stored, array):
    files, _ = stored
    path = files[2].array(Modality.IMAGE)
    path.unlink()
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(ScoresError, match=r"img_emb_2\.npy is damaged"):
        StoredPool(files)
