import numpy as np
import pytest
import torch

from clipdre.core import spherical
from clipdre.core.spherical import concatenated, nearest
from tests.core.oracle import unit_rows


def unit_tensor(seed, n, d):
    return torch.tensor(unit_rows(np.random.default_rng(seed), n, d), dtype=torch.float32)


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_nearest_is_the_largest_cosine(monkeypatch, tile):
    monkeypatch.setattr(spherical, "TILE", tile)
    vectors, centroids = unit_tensor(0, 200, 8), unit_tensor(1, 15, 8)
    indices, cosines = nearest(vectors, centroids)
    expected = np.array([[v @ c for c in centroids.double()] for v in vectors.double()])
    assert indices.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosines, expected.max(axis=1), atol=1e-12)


def test_one_centroid_is_the_nearest():
    indices, _ = nearest(unit_tensor(0, 5, 8), unit_tensor(1, 1, 8))
    assert indices.tolist() == [0] * 5


def test_what_float32_cannot_tell_apart_does_not_depend_on_other_rows():
    """In float32, nine of ten of these rows choose another centroid alone than with all others."""
    vectors = unit_tensor(2, 300, 512)
    centroids = unit_tensor(3, 1, 512) + 1e-8 * unit_tensor(4, 20, 512)
    together, _ = nearest(vectors, centroids)
    alone = torch.cat([nearest(row, centroids)[0] for row in vectors.split(1)])
    assert together.tolist() == alone.tolist()
    exact = (vectors.double() @ centroids.double().T).argmax(dim=1)
    assert together.tolist() == exact.tolist()


def test_concatenated_vectors_have_length_one():
    images, texts = unit_tensor(0, 20, 8), unit_tensor(1, 20, 8)
    both = concatenated([images, texts])
    assert both.shape == (20, 16)
    torch.testing.assert_close(both @ both.T, (images @ images.T + texts @ texts.T) / 2)
    torch.testing.assert_close(concatenated([images]), images)
