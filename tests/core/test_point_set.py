import numpy as np
import pytest
import torch

from clipdre.core.point_set import PointSets, explicit, frequencies, point_sets, similarity


def one_point(*vector):
    return PointSets(torch.ones(1, 1), torch.tensor([[vector]]))


def drawn(n, m, d, seed, weight=1.0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(n, m, d, generator=generator)
    weights = weight * torch.randn(n, m, generator=generator)
    return PointSets(weights, torch.nn.functional.normalize(points, dim=-1))


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 1.0), (0.5, 0.378), (0.0, 0.006)])
def test_published_values_of_single_points(cosine, expected):
    other = one_point(cosine, (1 - cosine**2) ** 0.5)
    found = float(similarity(one_point(1.0, 0.0), other))
    assert found == pytest.approx(expected, abs=1e-3)


def test_similarity_is_the_mean_over_pairs_of_points():
    first, second = drawn(3, 2, 4, seed=0), drawn(5, 6, 4, seed=1)
    expected = np.zeros((3, 5))
    for s in range(3):
        for t in range(5):
            for w, x in zip(first.weights[s], first.points[s], strict=True):
                for v, y in zip(second.weights[t], second.points[t], strict=True):
                    gaussian = np.exp(-float(((x - y) ** 2).sum()) / (2 * 0.5**2))
                    kernel = 0.667 * float(x @ y) + 0.333 * gaussian
                    expected[s, t] += float(w * v) * kernel / 12
    np.testing.assert_allclose(similarity(first, second).numpy(), expected, atol=1e-6)


def test_features_are_weights_and_directions():
    features = torch.tensor([[0.5, 3.0, 4.0, 1000.0, 0.0, -2.0]])
    weights, points = point_sets(features, 2)
    expected = [100 * np.tanh(0.005), 100.0]
    np.testing.assert_allclose(weights.numpy(), [expected], rtol=1e-6)
    np.testing.assert_allclose(points.numpy(), [[[0.6, 0.8], [0.0, -1.0]]], atol=1e-7)


# Root mean square error of the similarities below, by frequencies; one of 1,024 is what
# `clipdre.models.point_set` uses. Similarities have a standard deviation of 0.1.
@pytest.mark.parametrize(("count", "most"), [(64, 6e-3), (256, 3e-3), (1024, 1.5e-3), (4096, 8e-4)])
def test_explicit_vectors_approximate_the_similarity(count, most):
    first, second = drawn(200, 8, 15, seed=0), drawn(200, 8, 15, seed=1)
    u = frequencies(15, count, seed=0)
    assert u.shape == (count, 15)
    vectors = explicit(first, u), explicit(second, u)
    assert vectors[0].shape == (200, 15 + 2 * count)
    error = vectors[0] @ vectors[1].T - similarity(first, second)
    assert most / 3 < float(error.square().mean().sqrt()) < most


def test_frequencies_are_those_of_their_seed():
    assert torch.equal(frequencies(5, 12, seed=3), frequencies(5, 12, seed=3))
    assert not torch.equal(frequencies(5, 12, seed=3), frequencies(5, 12, seed=4))
