import inspect

import numpy as np
import pytest

from clipdre.core import exact
from tests.core import oracle

SCALE, BIAS = 30.0, -4.0


@pytest.fixture
def pool():
    return oracle.clustered_pool(seed=1, n=80, d=12, noise=0.6)


@pytest.fixture
def expected(pool):
    return oracle.scores(*pool, SCALE, BIAS)


def longer(pool):
    """The same directions, of any length."""
    lengths = np.random.default_rng(0).uniform(0.01, 100, (2, len(pool[0]), 1))
    return lengths[0] * pool[0], lengths[1] * pool[1]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tile_rows", [2048, 7])
def test_density_ratio_matches_the_oracle(pool, expected, scaled, tile_rows, monkeypatch):
    monkeypatch.setattr(exact, "TILE_ROWS", tile_rows)
    arrays = longer(pool) if scaled else pool
    found = exact.density_ratio(*arrays, logit_scale=SCALE, logit_bias=BIAS)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected["log_ratio"], rtol=1e-9)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (exact.kl_divergence, "kl"),
        (exact.reverse_kl_divergence, "klr"),
        (exact.effective_sample_size, "ess"),
    ],
)
def test_both_directions_match_the_oracle(pool, expected, function, name):
    image, text = function(*longer(pool), logit_scale=SCALE, logit_bias=BIAS)
    np.testing.assert_allclose(image, expected[f"{name}_image"], rtol=1e-9)
    np.testing.assert_allclose(text, expected[f"{name}_text"], rtol=1e-9)
    assert not np.allclose(image, text)


def test_the_bias_is_zero_by_default(pool):
    default = exact.density_ratio(*pool, logit_scale=SCALE)
    expected = oracle.scores(*pool, SCALE)["log_ratio"]
    np.testing.assert_allclose(default, expected, rtol=1e-9)


def test_importance_weights_match_their_definition(pool):
    images, prompts = pool[0], pool[1][:3]
    ratios = np.exp(5.0 * images @ prompts.T).mean(axis=1)
    found = exact.importance_weights(images * 3, prompts / 7, logit_scale=5.0)
    np.testing.assert_allclose(found, ratios / ratios.mean(), rtol=1e-9)
    default = exact.importance_weights(images, prompts)
    ratios = np.exp(10.0 * images @ prompts.T).mean(axis=1)
    np.testing.assert_allclose(default, ratios / ratios.mean(), rtol=1e-9)


def test_lists_and_half_precision_are_arrays():
    pairs = [[1, 0], [0, 1], [-1, 0]]
    expected = oracle.scores(np.array(pairs, float), np.array(pairs, float), 2.0)["log_ratio"]
    np.testing.assert_allclose(exact.density_ratio(pairs, pairs, logit_scale=2.0), expected)
    half = np.array(pairs, np.float16)
    np.testing.assert_allclose(exact.density_ratio(half, half, logit_scale=2.0), expected)


BAD = {
    "shape": [1.0, 2.0],
    "zero": [[1.0, 0.0], [0.0, 0.0]],
    "nan": [[1.0, np.nan], [0.0, 1.0]],
    "infinite": [[1.0, np.inf], [0.0, 1.0]],
}
GOOD = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(
    "function",
    [
        exact.density_ratio,
        exact.kl_divergence,
        exact.reverse_kl_divergence,
        exact.effective_sample_size,
        exact.importance_weights,
    ],
)
def test_bad_arrays_are_named(function, name):
    first, second = list(inspect.signature(function).parameters)[:2]
    with pytest.raises(ValueError, match=f"The '{first}' must be of shape"):
        function(BAD[name], GOOD, logit_scale=1.0)
    with pytest.raises(ValueError, match=f"The '{second}' must be of shape"):
        function(GOOD, BAD[name], logit_scale=1.0)


@pytest.mark.parametrize("pairs", [[[1.0, 0.0]], np.empty((0, 2))])
def test_fewer_than_two_pairs_are_refused(pairs):
    with pytest.raises(ValueError, match=rf"at least 2 pairs to compare\. Got {len(pairs)}\."):
        exact.density_ratio(pairs, pairs, logit_scale=1.0)


def test_arrays_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 2\)"):
        exact.kl_divergence(GOOD, [*GOOD, [1.0, 1.0]], logit_scale=1.0)
