import numpy as np
import pytest
import torch

from clipdre.clusters.spherical import TRAINING_BYTES, spherical_kmeans, training_rows
from tests.core.oracle import unit_rows


def test_centroids_are_the_directions_of_separate_blobs():
    rng = np.random.default_rng(1)
    directions = unit_rows(rng, 5, 32)
    labels = np.arange(500) % 5
    vectors = directions[labels] + 0.02 * rng.normal(size=(500, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    centroids = spherical_kmeans(torch.tensor(vectors, dtype=torch.float32), 5, seed=1).numpy()
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    sums = np.array([vectors[labels == k].sum(axis=0) for k in range(5)])
    means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cosines = means @ centroids.T
    assert sorted(cosines.argmax(axis=1)) == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(cosines.max(axis=1), 1, atol=1e-6)


def test_a_seed_gives_the_same_centroids_again():
    training = torch.tensor(unit_rows(np.random.default_rng(2), 300, 16), dtype=torch.float32)
    first, again, other = (spherical_kmeans(training, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [1, 20])
def test_as_many_rows_as_clusters_suffice(count, capfd):
    training = torch.tensor(unit_rows(np.random.default_rng(3), 20, 8), dtype=torch.float32)
    centroids = spherical_kmeans(training, count, 1)
    assert centroids.shape == (count, 8)
    assert torch.isfinite(centroids).all()
    assert capfd.readouterr() == ("", "")


def test_the_sample_is_bounded_but_never_smaller_than_the_clusters():
    assert training_rows(10, 512) == 640
    assert training_rows(100_000, 512) * 512 * 4 == TRAINING_BYTES
    assert training_rows(10**6, 512) == 10**6
