import numpy as np
import pytest
from scipy.optimize import minimize

from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers.clusters import Clusters
from clipdre.scorers.density_pruning import DensityPruning, divided
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors, stored_vectors


@pytest.mark.parametrize("keep", [0.1, 0.4, 0.95])
def test_quotas_are_those_of_the_definition(scores, keep):
    """Blobs of different width: those that are wider keep more."""
    rng = np.random.default_rng(9)
    labels = rng.integers(8, size=300)
    widths = np.linspace(0.05, 0.3, 8)[labels][:, None]
    images = unit_rows(rng, 8, 32)[labels] + widths * rng.normal(size=(300, 32))
    store_vectors(scores, images, images)
    settings = {"clusters": 8, "temperature": 0.1, "neighbors": 3}
    found, record = measured(scores, DensityPruning(keep=keep, **settings))
    of, _ = measured(scores, Clusters(clusters=8))
    numbers, distances = of["cluster_image"], of["cluster_distance_image"]
    vectors = stored_vectors(scores, Modality.IMAGE)
    sums = np.array([vectors[numbers == n].sum(axis=0) for n in range(8)])
    centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    complexity = []
    for n in range(8):
        inter = np.sort([1 - centroids[n] @ centroids[m] for m in range(8) if m != n])[:3].mean()
        complexity.append(inter * (1 - vectors[numbers == n] @ centroids[n]).mean())
    shares = np.exp(np.array(complexity) / 0.1) / np.exp(np.array(complexity) / 0.1).sum()
    sizes = np.bincount(numbers)
    quotas = divided(round(keep * 300), shares, sizes)
    assert found["dbp_quota"].tolist() == quotas[numbers].tolist()
    kept = found["dbp_rank"] <= found["dbp_quota"]
    assert kept.sum() == round(keep * 300) == record.figures["kept"]
    for n in range(8):
        members = np.flatnonzero(numbers == n)
        ranks = found["dbp_rank"][members]
        assert sorted(ranks) == list(range(1, len(members) + 1))
        assert (np.diff(distances[members][np.argsort(ranks)]) <= 1e-6).all()


def naive_division(budget, shares, sizes):
    """The quadratic program of the paper, by a general solver."""
    asked = budget * shares
    found = minimize(
        lambda x: ((x - asked) ** 2).sum(),
        np.full(len(sizes), budget / len(sizes)),
        jac=lambda x: 2 * (x - asked),
        bounds=[(min(1, size), size) for size in sizes],
        constraints={"type": "eq", "fun": lambda x: x.sum() - budget},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_divided_as_the_quadratic_program_says(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, size=12)
    shares = rng.dirichlet(np.ones(12))
    budget = int(rng.integers(12, sizes.sum() + 1))
    found = divided(budget, shares, sizes)
    assert found.sum() == budget
    assert (np.abs(found - naive_division(budget, shares, sizes)) < 1.001).all()


@pytest.mark.parametrize(("budget", "expected"), [(0, [1, 0, 1]), (2, [1, 0, 1]), (99, [5, 0, 3])])
def test_a_division_stays_within_the_clusters(budget, expected):
    shares, sizes = np.array([0.5, 0.0, 0.5]), np.array([5, 0, 3])
    assert divided(budget, shares, sizes).tolist() == expected


def test_a_single_cluster_keeps_its_share(scores):
    found, _ = measured(scores, DensityPruning(keep=0.3, clusters=1))
    assert set(found["dbp_quota"]) == {90}
    assert sorted(found["dbp_rank"]) == list(range(1, 301))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "`keep` 0.0 is not a share"),
        ({"keep": 1.5}, "`keep` 1.5 is not a share"),
        ({"keep": 0.5, "temperature": 0.0}, "`temperature` 0.0 is not positive"),
        ({"keep": 0.5, "neighbors": 0}, "`neighbors` 0 is too small"),
    ],
)
def test_unusable_settings_are_refused(scores, settings, message):
    with pytest.raises(UsageError, match=message):
        measured(scores, DensityPruning(**settings))
