import subprocess
import sys

import numpy as np
import pytest
import torch

from clipdre.clusters import kmeans
from clipdre.clusters.kmeans import cluster, nearest
from tests.core.oracle import clustered_pool, unit_rows


def naive_nearest(vectors, centroids):
    distances = [[((v - c) ** 2).sum() for c in centroids] for v in vectors]
    return np.argmin(distances, axis=1)


def tiles_of(vectors, size):
    def tiles():
        for start in range(0, len(vectors), size):
            yield start, vectors[start : start + size]

    return tiles


@pytest.fixture(scope="module")
def pool():
    vectors, _ = clustered_pool(3, n=600, d=16, noise=0.6)
    return torch.tensor(vectors, dtype=torch.float32)


@pytest.fixture
def trained(monkeypatch):
    """Centroids that k-means found, one per tile that was assigned to them."""
    seen = []

    def recorded(vectors, centroids):
        seen.append(centroids.numpy())
        return nearest(vectors, centroids)

    monkeypatch.setattr(kmeans, "nearest", recorded)
    return seen


def test_nearest_matches_naive_distances():
    rng = np.random.default_rng(0)
    vectors, centroids = 3 * rng.normal(size=(200, 8)), rng.normal(size=(15, 8))
    found = nearest(torch.from_numpy(vectors), torch.from_numpy(centroids))
    assert found.squeeze(1).tolist() == naive_nearest(vectors, centroids).tolist()
    several = nearest(torch.from_numpy(vectors), torch.from_numpy(centroids), 3)
    distances = np.linalg.norm(vectors[:, None] - centroids[None, :], axis=2)
    assert several.tolist() == np.argsort(distances, axis=1)[:, :3].tolist()


def test_rows_belong_to_the_nearest_trained_centroid(pool, trained):
    _, assigned = cluster(pool[:200], 12, 600, tiles_of(pool, 150))
    assert len(trained) == 4
    assert assigned.tolist() == naive_nearest(pool.numpy(), trained[0]).tolist()


def test_cells_describe_their_members(pool):
    cells, assigned = cluster(pool[:200], 12, 600, tiles_of(pool, 150))
    assert assigned.shape == (600,)
    for cell in range(12):
        members = pool.numpy()[assigned == cell].astype(np.float64)
        assert int(cells.counts[cell]) == len(members)
        np.testing.assert_allclose(cells.centroids[cell], members.mean(axis=0), atol=1e-6)
        variance = members.var(axis=0).mean()
        assert float(cells.variances[cell]) == pytest.approx(variance, abs=1e-6)


def test_no_cell_mixes_separate_blobs():
    rng = np.random.default_rng(1)
    labels = rng.integers(5, size=400)
    vectors = unit_rows(rng, 5, 32)[labels] + 0.01 * rng.normal(size=(400, 32))
    pool = torch.tensor(vectors, dtype=torch.float32)
    cells, assigned = cluster(pool[:200], 20, 400, tiles_of(pool, 64))
    for cell in range(20):
        assert len(set(labels[assigned == cell].tolist())) <= 1
    assert cells.variances.max() < 2 * 0.01**2


def test_tile_sizes_do_not_change_cells(pool):
    cells, assigned = cluster(pool[:200], 12, 600, tiles_of(pool, 600))
    for size in (1, 64, 599):
        others, found = cluster(pool[:200], 12, 600, tiles_of(pool, size))
        assert found.tolist() == assigned.tolist()
        torch.testing.assert_close(others.centroids, cells.centroids)
        torch.testing.assert_close(others.variances, cells.variances)


def test_cells_without_members_are_empty():
    training = torch.tensor(unit_rows(np.random.default_rng(2), 20, 8), dtype=torch.float32)
    cells, assigned = cluster(training, 20, 8, tiles_of(training[:8], 3))  # one row per cell
    assert sorted(cells.counts.tolist()) == [0] * 12 + [1] * 8
    empty = cells.counts == 0
    assert cells.centroids[empty].abs().max() == 0
    assert cells.variances.abs().max() < 1e-6
    torch.testing.assert_close(cells.centroids[torch.from_numpy(assigned)], training[:8])


GROWTH = """
import resource

import torch

from clipdre.clusters.kmeans import cluster

rows, cells = 150_000, 1024
pool = torch.nn.functional.normalize(torch.randn(rows, 8), dim=1)


def peak(rows):
    tiles = ((2048 * n, tile) for n, tile in enumerate(pool[:rows].split(2048)))
    cluster(pool[: 2 * cells], cells, rows, lambda: tiles)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print(-peak(10_000) + peak(rows))
"""


def test_memory_does_not_grow_with_rows_times_cells():
    """It did in half of all processes, by where the system had placed their heaps."""
    command = [sys.executable, "-c", GROWTH]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    grown = [float(run.communicate()[0]) for run in runs]
    assert max(grown) < 150  # MB; the products are 614
