import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.weights import importance_weights, log_mixture, weights_sample_size
from tests.core.oracle import unit_rows


def test_mixture_matches_the_naive_sum():
    rng = np.random.default_rng(0)
    images, prompts = unit_rows(rng, 20, 8), unit_rows(rng, 3, 8)
    found = log_mixture(torch.from_numpy(images), torch.from_numpy(prompts), 10.0)
    np.testing.assert_allclose(found, np.log(np.exp(10 * images @ prompts.T).mean(axis=1)))


@given(st.lists(st.floats(-5000, 5000), min_size=1, max_size=30))
def test_weights_have_mean_one_at_any_scale(logs):
    weights = importance_weights(torch.tensor(logs, dtype=torch.float64))
    assert float(weights.mean()) == pytest.approx(1)
    assert torch.isfinite(weights).all()


def test_avoided_mixture_divides_the_weight():
    target, avoided = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 1.0]).double()
    weights = importance_weights(target, avoided)
    assert float(weights[1] / weights[0]) == pytest.approx(np.e)


def test_sample_size_in_closed_form():
    assert weights_sample_size(torch.ones(7)) == pytest.approx(7)
    assert weights_sample_size(torch.tensor([1.0, 0, 0, 0])) == pytest.approx(1)
