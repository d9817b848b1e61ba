import numpy as np
import pytest

from clipdre.core.modality import Modality
from clipdre.errors import InputError
from clipdre.scorers.normsim import Norm, NormSim
from tests.scorers.measuring import measured, stored_vectors

DIM = 128


@pytest.fixture
def target(tmp_path):
    """A file of 5,000 vectors of any length, more than one tile."""
    vectors = np.random.default_rng(3).standard_normal((5000, DIM)).astype(np.float32)
    np.save(tmp_path / "target.npy", vectors)
    return tmp_path / "target.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("norm", list(Norm))
def test_it_is_the_norm_of_the_cosines(scores, target, norm, modality):
    path, vectors = target
    found, _ = measured(scores, NormSim(target=str(path), norm=norm, modality=modality))
    cosines = stored_vectors(scores, modality) @ vectors.astype(np.float64).T
    expected = cosines.max(axis=1) if norm is Norm.MAX else np.sqrt((cosines**2).sum(axis=1))
    np.testing.assert_allclose(found["normsim"], expected, rtol=1e-4, atol=1e-5)


def test_every_pair_of_the_target_itself_has_the_largest_cosine(scores):
    found, _ = measured(scores, NormSim(target=str(scores)))
    np.testing.assert_allclose(found["normsim"], 1.0, atol=1e-5)


def test_a_folder_of_embeddings_is_a_target(scores):
    of_scores, _ = measured(scores, NormSim(target=str(scores), norm=Norm.TWO))
    of_embeddings, _ = measured(scores, NormSim(target=f"{scores}/embeddings", norm=Norm.TWO))
    np.testing.assert_allclose(of_scores["normsim"], of_embeddings["normsim"], rtol=1e-6)


def test_its_record_holds_in_any_working_directory(monkeypatch, target):
    path, _ = target
    monkeypatch.chdir(path.parent)
    assert NormSim(target=path.name) == NormSim(target=str(path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 5), np.float32), "vectors of length 5, the pool of 128"),
        (np.ones(DIM, np.float32), r"shape \(128,\) of float32"),
        (np.zeros((3, DIM), np.float32), "NaN, infinite or zero"),
        (np.full((3, DIM), np.nan, np.float32), "NaN, infinite or zero"),
        (np.empty((0, DIM), np.float32), "has no vectors"),
        (np.array([{"a": 1}], dtype=object), "cannot read"),
    ],
)
def test_an_unusable_target_is_refused_with_a_cure(scores, tmp_path, array, message):
    np.save(tmp_path / "bad.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        measured(scores, NormSim(target=str(tmp_path / "bad.npy")))
    assert caught.value.cure


def test_a_missing_target_is_refused(scores, tmp_path):
    for name in ("none.npy", "none"):
        with pytest.raises(InputError, match=f"{name} does not exist"):
            measured(scores, NormSim(target=str(tmp_path / name)))
