import numpy as np
import pytest
import torch

from clipdre.core.cells import Cells, nearest
from tests.core.oracle import unit_rows

SIZES = (200, 5, 80, 40, 1, 300)
SCALE = 30.0


@pytest.fixture
def members():
    """Members of six cells around unit centres."""
    rng = np.random.default_rng(0)
    centres = unit_rows(rng, len(SIZES), 32)
    return [
        centre + 0.02 * rng.standard_normal((n, 32))
        for centre, n in zip(centres, SIZES, strict=True)
    ]


@pytest.fixture
def cells(members):
    return Cells(
        torch.tensor(np.array([m.mean(axis=0) for m in members]), dtype=torch.float32),
        torch.tensor(SIZES),
        torch.tensor([m.var(axis=0).mean() for m in members], dtype=torch.float32),
    )


def queries(seed, n):
    return torch.tensor(unit_rows(np.random.default_rng(seed), n, 32), dtype=torch.float32)


def test_log_mass_is_the_documented_formula(members, cells):
    found = cells.log_mass(queries(1, 20), SCALE)
    for cell, vectors in enumerate(members):
        centroid, variance = vectors.mean(axis=0), vectors.var(axis=0).mean()
        level = np.log(len(vectors)) + SCALE**2 * variance / 2
        for n, query in enumerate(queries(1, 20).numpy()):
            assert float(found[n, cell]) == pytest.approx(
                level + SCALE * query @ centroid, abs=1e-4
            )


def test_log_mass_grows_with_the_square_of_a_query_s_length(members, cells):
    long = 3 * queries(1, 5)
    same = Cells(3 * cells.centroids, cells.counts, 9 * cells.variances)
    np.testing.assert_allclose(
        cells.log_mass(long, SCALE), same.log_mass(queries(1, 5), SCALE), rtol=1e-5
    )


def test_log_mass_predicts_the_sum_of_exponentials(members, cells):
    found = cells.log_mass(queries(1, 20), SCALE).numpy()
    for cell, vectors in enumerate(members):
        exact = np.log(np.exp(SCALE * queries(1, 20).numpy() @ vectors.T).sum(axis=1))
        assert np.abs(found[:, cell] - exact).mean() < 0.2, cell


@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0, 1e4])
def test_near_cells_hold_more_than_the_margin_of_the_mass(cells, margin):
    found = cells.near(queries(2, 50), SCALE, margin)
    mass = np.exp(cells.log_mass(queries(2, 50), SCALE).double().numpy())
    for row, shares in zip(found.tolist(), mass / mass.sum(axis=1, keepdims=True), strict=True):
        expected = [share > np.exp(-margin) for share in shares]
        expected[int(shares.argmax())] = True
        assert row == expected


def test_choice_does_not_depend_on_the_batch(cells):
    alone = torch.cat([cells.near(row[None], SCALE, 5.0) for row in queries(3, 10)])
    assert torch.equal(cells.near(queries(3, 10), SCALE, 5.0), alone)


def test_empty_cells_are_never_near():
    cells = Cells(torch.eye(3), torch.tensor([4, 0, 2]), torch.full((3,), 0.01))
    assert cells.near(torch.eye(3), 100.0, 1e6).tolist() == [[True, False, True]] * 3


def test_places_map_to_their_cells():
    cells = Cells(torch.eye(4), torch.tensor([3, 0, 2, 1]), torch.zeros(4))
    assert len(cells) == 4
    assert cells.of_places(torch.arange(6)).tolist() == [0, 0, 0, 2, 2, 3]
    assert cells.of_places(torch.tensor([[5, 0], [3, 2]])).tolist() == [[3, 0], [2, 0]]


def test_cells_describe_their_members(members):
    rows = [torch.from_numpy(m) for m in (*members, np.zeros((0, 32)))]
    sums, squares = (torch.stack([f(r) for r in rows]) for f in (lambda r: r.sum(0), squared))
    found = Cells.of(torch.tensor([*SIZES, 0]), sums, squares)
    for cell, own in enumerate(members):
        np.testing.assert_allclose(found.centroids[cell], own.mean(axis=0), atol=1e-6)
        assert float(found.variances[cell]) == pytest.approx(own.var(axis=0).mean(), abs=1e-6)
    assert found.centroids[-1].abs().max() == found.variances[-1] == 0  # an empty cell


def squared(rows):
    return rows.square().sum()


def test_nearest_matches_naive_distances():
    rng = np.random.default_rng(0)
    vectors, centroids = 3 * rng.normal(size=(200, 8)), rng.normal(size=(15, 8))
    distances = np.linalg.norm(vectors[:, None] - centroids[None, :], axis=2)
    found = [nearest(torch.from_numpy(vectors), torch.from_numpy(centroids), n) for n in (1, 3)]
    assert found[0].squeeze(1).tolist() == distances.argmin(axis=1).tolist()
    assert found[1].tolist() == np.argsort(distances, axis=1)[:, :3].tolist()
