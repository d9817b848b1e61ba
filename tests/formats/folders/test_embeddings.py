import numpy as np
import pyarrow as pa
import pytest
import torch

from clipdre.formats.folders.embeddings import EmbeddingFiles, StoredPool
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
        samples = pa.Table.from_pylist([{"key": str(n)} for n in range(size)], SAMPLE_SCHEMA)
        file.write(part, -part, samples, {"clipdre.encoded": "yes"})
        start += size
    return files, torch.nn.functional.normalize(torch.from_numpy(vectors.astype(np.float32)))


def test_the_layout_is_clip_retrievals(tmp_path):
    file = EmbeddingFiles(tmp_path, 7, 100)
    assert file.array("image") == tmp_path / "img_emb" / "img_emb_007.npy"
    assert file.array("text") == tmp_path / "text_emb" / "text_emb_007.npy"
    assert file.metadata == tmp_path / "metadata" / "metadata_007.parquet"
    assert EmbeddingFiles(tmp_path, 7, 99).array("image").name == "img_emb_07.npy"


def test_a_pool_reads_any_rows_across_shards(stored):
    files, vectors = stored
    pool = StoredPool(files)
    assert len(pool) == 12
    assert pool.starts == [0, 5, 5, 8, 8, 12]
    for start in range(12):
        for stop in range(start + 1, 13):
            assert torch.equal(pool.read("image", start, stop), vectors[start:stop])
    assert torch.equal(pool.read("text", 3, 9), -vectors[3:9])


def test_a_pool_takes_chosen_rows(stored):
    files, vectors = stored
    rows = np.array([8, 0, 4, 11, 5, 7, 4])
    assert torch.equal(StoredPool(files).take("image", rows), vectors[torch.from_numpy(rows)])


def test_tiles_cover_the_pool_in_order(stored):
    files, vectors = stored
    tiles = list(StoredPool(files).tiles("image", 5))
    assert [start for start, _ in tiles] == [0, 5, 10]
    assert torch.equal(torch.cat([tile for _, tile in tiles]), vectors)


def test_rows_have_unit_norm_in_spite_of_fp16(stored):
    files, _ = stored
    norms = StoredPool(files).read("image", 0, 12).norm(dim=1)
    assert (norms - 1).abs().max() < 1e-6


def test_facts_and_samples_come_back(stored, tmp_path):
    files, _ = stored
    assert files[0].stamp() == {"clipdre.encoded": "yes"}
    assert files[0].samples()["key"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert EmbeddingFiles(tmp_path / "none", 0, 1).stamp() == {}
