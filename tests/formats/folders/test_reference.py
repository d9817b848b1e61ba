import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch

from clipdre.core.cells import Cells
from clipdre.core.modality import Modality
from clipdre.core.moments import Moments
from clipdre.errors import ScoresError
from clipdre.formats.folders.records import NearRecord, ReferenceRecord
from clipdre.formats.folders.reference import ReferenceFolder
from tests.formats.folders.schema_1 import downgrade_reference

RECORD = ReferenceRecord(
    method="stratified",
    pairs=10,
    bulk=0,
    folds=0,
    neighbors=2,
    model_digest="m",
    logit_scale=50.0,
    logit_bias=0.5,
    embedding_dim=4,
    digest="d",
    near={m: NearRecord(cells=2, margin=3.0, mass=1.0, share=0.5) for m in Modality},
)
RNG = np.random.default_rng(0)


def random_moments(seed):
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(4, dtype=torch.float64, generator=rng)
    covariance = torch.randn(4, 4, dtype=torch.float64, generator=rng)
    return Moments(10 + seed, mean, covariance)


def assert_equal_fields(first, second):
    for name, value in vars(first).items():
        other = vars(second)[name]
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype
            assert torch.equal(value, other), name
        else:
            assert value == other, name


@pytest.fixture
def folder(tmp_path):
    return ReferenceFolder(tmp_path / "reference")


def test_a_record_is_there_once_it_is_written(folder):
    assert folder.record() is None
    folder.write_record(RECORD)
    assert folder.record() == RECORD
    raw = json.loads((folder.path / "reference.json").read_text())
    assert raw["method"] == "stratified"
    assert set(raw["near"]) == {"image", "text"}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"near": {}}', "null", '{"near": 5}'],
)
def test_a_damaged_record_is_refused_with_a_cure(folder, text):
    folder.path.mkdir()
    (folder.path / "reference.json").write_text(text)
    with pytest.raises(ScoresError, match=r"reference\.json is damaged or from") as caught:
        folder.record()
    assert caught.value.cure == "score that pool again with `overwrite`"


def test_moments_and_cells_are_read_back_exactly(folder):
    moments = {Modality.IMAGE: random_moments(1), Modality.TEXT: random_moments(2)}
    folder.write_moments(moments)
    cells = Cells(torch.randn(3, 4), torch.tensor([5, 0, 5]), torch.rand(3))
    folder.write_cells(Modality.TEXT, cells)
    for modality in Modality:
        assert_equal_fields(moments[modality], folder.moments(modality, 4))
    assert_equal_fields(cells, folder.cells(Modality.TEXT, 4, int(cells.counts.sum())))


def test_arrays_are_mapped_not_read(folder):
    vectors = RNG.standard_normal((6, 4)).astype(np.float16)
    folder.write("pool_text", vectors)
    found = folder.array("pool_text", np.float16, 6, 4)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, vectors)
    np.testing.assert_array_equal(np.load(folder.path / "pool_text.npy"), vectors)


def test_an_array_can_be_filled_in_any_order(folder):
    vectors = RNG.standard_normal((6, 4)).astype(np.float16)
    with folder.writing("pool_image", (6, 4)) as array:
        array[3:] = vectors[3:]
        assert not (folder.path / "pool_image.npy").exists()
        array[:3] = vectors[:3]
    np.testing.assert_array_equal(np.load(folder.path / "pool_image.npy"), vectors)


@pytest.mark.parametrize("name", ["moments.npz", "cells_image.npz", "pool_image.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "other shape", "other kind"])
def test_damaged_files_are_named_with_a_cure(folder, name, damage):
    folder.write_moments({m: random_moments(1) for m in Modality})
    folder.write_cells(Modality.IMAGE, Cells(torch.randn(3, 4), torch.ones(3), torch.rand(3)))
    folder.write("pool_image", np.ones((100, 4), np.float16))
    path = folder.path / name
    data = path.read_bytes()
    held = np.load(io.BytesIO(data))
    path.unlink()
    if damage.startswith("other"):
        array = np.ones((4, 5), np.float16) if damage == "other shape" else np.array(["text"])
        if path.suffix == ".npz":
            np.savez(path, **dict.fromkeys(held.files, array))
        else:
            np.save(path, array)
    elif damage != "missing":
        path.write_bytes(data[: len(data) // 2 if damage == "truncated" else 0])
    reads = {
        "moments.npz": lambda: folder.moments(Modality.TEXT, 4),
        "cells_image.npz": lambda: folder.cells(Modality.IMAGE, 4, 10),
        "pool_image.npy": lambda: folder.array("pool_image", np.float16, 100, 4),
    }
    with pytest.raises(ScoresError, match=f"{name} is damaged") as caught:
        reads[name]()
    assert caught.value.cure == "score that pool again with `overwrite`"


def test_pickles_are_not_loaded(folder):
    folder.path.mkdir()
    np.save(folder.path / "pool_text.npy", np.array([{"x": 1}] * 50, dtype=object))
    with pytest.raises(ScoresError, match="Python objects"):
        folder.array("pool_text", np.float16, 6, 4)


def test_references_of_schema_1_can_be_read(folder):
    moments = {Modality.IMAGE: random_moments(1), Modality.TEXT: random_moments(2)}
    cells = Cells(torch.randn(3, 4), torch.tensor([5, 0, 5]), torch.rand(3))
    folder.write_moments(moments)
    folder.write_cells(Modality.IMAGE, cells)
    folder.write("pool_hash_image", np.arange(3, dtype=np.uint64))
    folder.write_record(RECORD)
    downgrade_reference(folder.path)
    assert not list(folder.path.glob("*image*"))
    assert folder.record() == RECORD
    for modality in Modality:
        assert_equal_fields(moments[modality], folder.moments(modality, 4))
    assert_equal_fields(cells, folder.cells(Modality.IMAGE, 4, 10))
    assert folder.array("pool_hash_image", np.uint64, 3).tolist() == [0, 1, 2]
    folder.write("pool_hash_image", np.arange(5, dtype=np.uint64))  # new files come first
    assert folder.array("pool_hash_image", np.uint64, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("counts", [[], [100], [-5, 15], [2**62, 2**62], [5, 4]])
def test_cells_that_do_not_hold_the_pool_are_refused(folder, counts):
    counts = torch.tensor(counts, dtype=torch.int64)
    size = len(counts)
    folder.write_cells(Modality.IMAGE, Cells(torch.randn(size, 4), counts, torch.rand(size)))
    with pytest.raises(ScoresError, match="do not hold 10 pairs"):
        folder.cells(Modality.IMAGE, 4, 10)


@pytest.mark.parametrize("leaders", [[-1, 0, 0], [10**6, 1, 2], [2**62, 1, 2], [1, 2, 0]])
def test_rows_that_lead_no_groups_are_sought_again(folder, leaders):
    folder.write_leaders(np.array(leaders), "digest")
    assert folder.leaders("digest", 3) is None
    folder.write_leaders(np.array([0, 0, 2]), "digest")
    assert folder.leaders("digest", 3).tolist() == [0, 0, 2]


def test_archives_are_not_compressed(folder):
    """They could be much larger than their files."""
    folder.write_moments({modality: random_moments(1) for modality in Modality})
    with zipfile.ZipFile(folder.path / "moments.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image_x.npy", bytes(10**6))
    with pytest.raises(ScoresError, match=r"moments\.npz is damaged \(it is compressed\)"):
        folder.moments(Modality.IMAGE, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"folds": 5, "bulk": 10},
        {"near": {}},
        {"near": {"image": {"cells": 2, "margin": 3.0, "mass": 1.0, "share": 0.5}}},
        {"near": {m: {"cells": 2, "margin": -3.0, "mass": 1, "share": 0.5} for m in Modality}},
        {"near": {m: {"cells": 2, "margin": math.nan, "mass": 1, "share": 0.5} for m in Modality}},
    ],
)
def test_records_that_cannot_be_are_refused(folder, changes):
    folder.write_record(RECORD)
    assert folder.record().method == "stratified"
    path = folder.path / "reference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ScoresError, match=r"reference\.json is damaged"):
        folder.record()
