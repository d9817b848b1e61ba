import numpy as np
import pytest

from clipdre.truth.embeddings import EmbeddingWorld


def draw(n=2000, seed=0, **settings):
    return EmbeddingWorld(d=64, **settings).draw(n, np.random.default_rng(seed))


def cosines(images, texts):
    return (images * texts).sum(axis=1)


def test_draws_unit_rows():
    for vectors in draw():
        assert vectors.shape == (2000, 64)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_pairs_match_more_closely_than_strangers():
    images, texts = draw()
    assert cosines(images, texts).mean() > cosines(images, texts[::-1]).mean() + 0.1


def test_noise_separates_the_vectors_of_a_pair():
    means = [cosines(*draw(noise=noise)).mean() for noise in (0.0, 0.2, 0.4, 0.8)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.05


def test_gap_separates_the_modalities():
    near, far = (draw(gap=gap) for gap in (0.0, 1.5))
    distances = [np.linalg.norm(i.mean(axis=0) - t.mean(axis=0)) for i, t in (near, far)]
    assert distances[0] < 0.1 < 1 < distances[1]


def test_law_depends_on_the_world_and_not_on_the_draw():
    worlds = [(1, 0), (1, 5), (2, 0)]  # seed of the world, seed of the draw
    means = [
        EmbeddingWorld(d=64, seed=world).draw(20_000, np.random.default_rng(seed))[0].mean(axis=0)
        for world, seed in worlds
    ]
    np.testing.assert_allclose(means[0], means[1], atol=0.02)
    assert np.linalg.norm(means[0] - means[2]) > 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_same_generator_draws_the_same_pairs(seed):
    for first, second in zip(draw(50, seed), draw(50, seed), strict=True):
        np.testing.assert_array_equal(first, second)
