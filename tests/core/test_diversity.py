import math

import pytest
import torch

from clipdre.core.diversity import diversity


def test_equal_variances_count_their_directions():
    covariance = torch.diag(torch.tensor([0.2, 0.2, 0.2, 0, 0], dtype=torch.float64))
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.manual_seed(0)).double())
    assert diversity(turn @ covariance @ turn.T) == pytest.approx((3, 3))


def test_unequal_variances_count_less():
    found = diversity(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found == pytest.approx((math.exp(entropy), 16 / 10))
    assert found.participation_ratio < found.effective_rank


def test_vectors_that_do_not_vary_have_none():
    assert diversity(torch.zeros(4, 4, dtype=torch.float64)) == (0, 0)
