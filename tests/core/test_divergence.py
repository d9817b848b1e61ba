import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import norm

from clipdre.core.divergence import effective_sample_size, kl, reverse_kl
from clipdre.core.partition import RunningPartition


def partition_of(logits):
    return RunningPartition.of(torch.tensor(np.atleast_2d(logits), dtype=torch.float64))


def divergences(logits):
    """KL, reverse KL and effective sample size of one query."""
    part = partition_of(logits)
    mean = torch.tensor([np.mean(logits)], dtype=torch.float64)
    return float(kl(part)), float(reverse_kl(part, mean)), float(effective_sample_size(part))


def test_two_references_in_closed_form():
    found = divergences([0.0, math.log(3)])  # conditional (1/4, 3/4), marginal (1/2, 1/2)
    assert found == pytest.approx(
        (
            0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
            0.5 * math.log(2) + 0.5 * math.log(2 / 3),
            1 / (1 / 16 + 9 / 16),
        )
    )


def test_equal_logits_carry_no_information():
    assert divergences([7.0] * 11) == pytest.approx((0, 0, 11), abs=1e-12)


def test_one_dominant_reference_carries_the_whole_conditional():
    kl_, reverse, size = divergences([1000.0] + [0.0] * 9)
    assert kl_ == pytest.approx(math.log(10))
    assert reverse == pytest.approx(1000 - math.log(10) - 100)  # log Z minus the mean logit
    assert size == pytest.approx(1)


@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
def test_random_logits_against_relative_entropies(spread):
    logits = spread * np.random.default_rng(0).standard_normal((20, 300))
    part = partition_of(logits)
    conditional = np.exp(log_softmax(logits, axis=1))
    marginal = np.full_like(conditional, 1 / 300)
    expected = rel_entr(conditional, marginal).sum(axis=1)
    np.testing.assert_allclose(kl(part), expected, atol=1e-12)
    found = reverse_kl(part, torch.from_numpy(logits.mean(axis=1)))
    np.testing.assert_allclose(found, rel_entr(marginal, conditional).sum(axis=1), atol=1e-12)
    size = 1 / (conditional**2).sum(axis=1)
    np.testing.assert_allclose(effective_sample_size(part), size)


def test_gaussian_logits_in_closed_form():
    """Quantiles of N(0, s^2): both divergences tend to s^2 / 2, the sample size to M e^(-s^2)."""
    count, deviation = 200_000, 1.2
    logits = deviation * norm.ppf((np.arange(count) + 0.5) / count)
    kl_, reverse, size = divergences(logits)
    assert kl_ == pytest.approx(deviation**2 / 2, rel=1e-3)
    assert reverse == pytest.approx(deviation**2 / 2, rel=1e-3)
    assert size / count == pytest.approx(math.exp(-(deviation**2)), rel=1e-2)


def test_adding_a_constant_to_the_logits_changes_nothing():
    logits = np.random.default_rng(1).standard_normal(50)
    assert divergences(logits + 40) == pytest.approx(divergences(logits))


def test_rounding_does_not_make_kl_negative():
    near = [
        torch.full((1, m), level) + torch.linspace(0, 1e-4, m)
        for level in (0.1, 7.7)
        for m in (100, 1000, 4097)
    ]
    parts = [RunningPartition.of(tile) for tile in near]
    unclamped = [p.s_exp / p.exp - torch.log(p.exp / p.weight) for p in parts]
    assert min(unclamped) < 0
    assert all(float(kl(part)) >= 0 for part in parts)
