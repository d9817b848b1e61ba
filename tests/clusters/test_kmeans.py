import numpy as np
import torch

from clipdre.clusters.kmeans import trained_centroids
from clipdre.core.cells import nearest
from tests.core.oracle import clustered_pool, unit_rows


def test_no_cell_mixes_separate_blobs():
    rng = np.random.default_rng(1)
    labels = rng.integers(5, size=400)
    vectors = unit_rows(rng, 5, 32)[labels] + 0.01 * rng.normal(size=(400, 32))
    pool = torch.tensor(vectors, dtype=torch.float32)
    centroids = trained_centroids(pool[:200], 20)
    assert centroids.shape == (20, 32)
    assigned = nearest(pool, centroids).squeeze(1).numpy()
    for cell in range(20):
        assert len(set(labels[assigned == cell].tolist())) <= 1


def test_as_many_centroids_as_rows_are_the_rows():
    vectors = torch.tensor(unit_rows(np.random.default_rng(2), 20, 8), dtype=torch.float32)
    centroids = trained_centroids(vectors, 20)
    assert sorted(nearest(vectors, centroids).squeeze(1).tolist()) == list(range(20))
    torch.testing.assert_close(centroids[nearest(vectors, centroids).squeeze(1)], vectors)


def test_training_repeats():
    vectors, _ = clustered_pool(3, n=600, d=16, noise=0.6)
    pool = torch.tensor(vectors, dtype=torch.float32)
    torch.testing.assert_close(*(trained_centroids(pool, 40) for _ in range(2)), rtol=0, atol=0)
