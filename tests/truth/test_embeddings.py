import numpy as np
import pytest

from clipdre.truth.embeddings import EmbeddingWorld, draw_mismatched
from tests.core import oracle


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


@pytest.fixture(scope="module")
def pools():
    return draw_mismatched(EmbeddingWorld(d=64), 1000, 0.3, np.random.default_rng(0))


class TestMismatched:
    """The same wrong captions, with the pairs that they belong to in the pool or not."""

    def test_differ_only_in_the_rest_of_the_pool(self, pools):
        kept, absent = pools
        assert kept.images.shape == absent.images.shape == kept.texts.shape == absent.texts.shape
        assert kept.mismatched.sum() == absent.mismatched.sum() == 300
        for name in ("images", "texts"):
            first, second = (getattr(pool, name) for pool in pools)
            np.testing.assert_array_equal(first[:1000], second[:1000])
            assert (first[1000:] != second[1000:]).any(axis=1).all()

    def test_captions_are_those_of_the_most_similar_image(self, pools):
        kept, _ = pools
        owners, captions = kept.images[1000:], kept.texts[1000:]
        for row in np.flatnonzero(kept.mismatched):
            nearest = (owners @ kept.images[row]).argmax()
            np.testing.assert_array_equal(kept.texts[row], captions[nearest])

    def test_owners_are_kept_or_absent(self, pools):
        for pool, expected in zip(pools, (True, False), strict=True):
            wrong = pool.texts[:1000][pool.mismatched]
            found = (wrong[:, None] == pool.texts[None, 1000:]).all(axis=2).any(axis=1)
            assert (found == expected).all()

    def test_what_the_documents_claim(self, pools):
        """The ratio finds wrong captions in both, better if the owner is there; a KL never does."""
        areas = []
        for pool in pools:
            vectors = (pool.images.astype(np.float64), pool.texts.astype(np.float64))
            columns = oracle.scores(*vectors, 100.0)
            wrong = pool.mismatched
            areas.append(
                {
                    name: (values[:1000][~wrong][:, None] > values[:1000][wrong]).mean()
                    for name, values in columns.items()
                }
            )
        kept, absent = areas
        assert kept["similarity"] == absent["similarity"]
        assert kept["log_ratio"] > absent["log_ratio"] > absent["similarity"] + 0.05
        assert absent["negcliploss"] == pytest.approx(absent["log_ratio"], abs=0.02)
        assert kept["kl_text"] < 0.4
        for name in ("kl_image", "kl_text"):
            assert absent[name] < 0.6
