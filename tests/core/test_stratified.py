import numpy as np
import pytest
import torch

from clipdre.core.divergence import kl
from clipdre.core.partition import RunningPartition
from clipdre.core.reliability import reliability
from clipdre.core.stratified import StratifiedPartition, standard_error

FOLDS = 8


def stratified(logits, near, bulk):
    """From the full logits (n, m): masks of the near ones, and the bulk's columns fold by fold."""
    n = len(logits)
    near_part = RunningPartition.of(logits.clone(), ~near)
    mask = near[:, bulk]
    shape = (n, FOLDS, len(bulk) // FOLDS)
    folds = RunningPartition.of(logits[:, bulk].clone().view(shape), mask.view(shape))
    rest = (~near).sum(dim=1).double()
    return StratifiedPartition(near_part, folds, rest)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 2.0 * torch.randn(200, 4000, dtype=torch.float64)


def nearest(logits, k):
    near = torch.zeros_like(logits, dtype=torch.bool)
    return near.scatter_(1, logits.topk(k, dim=1).indices, True) if k else near


def test_everything_near_is_exact_and_has_no_error(logits):
    near = torch.ones_like(logits, dtype=torch.bool)
    part = StratifiedPartition(
        RunningPartition.of(logits.clone()),
        RunningPartition.empty(200, 0),
        torch.zeros(200, dtype=torch.float64),
    )
    exact = RunningPartition.of(logits.clone())
    torch.testing.assert_close(kl(part.whole()), kl(exact))
    assert torch.equal(standard_error(part.deviations(kl)), torch.zeros(200).double())
    assert near.all()


def test_a_bulk_of_the_whole_pool_is_exact_and_has_no_error(logits):
    part = stratified(logits, nearest(logits, 0), torch.randperm(4000))
    exact = RunningPartition.of(logits.clone())
    torch.testing.assert_close(part.whole().log_mean_exp(), exact.log_mean_exp())
    torch.testing.assert_close(kl(part.whole()), kl(exact))
    assert standard_error(part.deviations(kl)).abs().max() == 0


@pytest.mark.parametrize("k", [20, 50])
def test_the_estimate_is_unbiased_and_its_error_honest(logits, k):
    exact = kl(RunningPartition.of(logits.clone()))
    part = stratified(logits, nearest(logits, k), torch.randperm(4000)[:800])
    error = kl(part.whole()) - exact
    se = standard_error(part.deviations(kl))
    within = ((error.abs() <= 2 * se) | (error.abs() <= 0.01)).double().mean()
    assert within >= 0.85
    assert abs(float(error.mean())) < 3 * float(se.mean())


def test_near_counterparts_lower_the_error(logits):
    bulk = torch.randperm(4000)[:800]
    exact = kl(RunningPartition.of(logits.clone()))
    errors = [
        (kl(stratified(logits, nearest(logits, k), bulk).whole()) - exact).square().mean().sqrt()
        for k in (0, 20, 100)
    ]
    assert errors[0] > 2 * errors[1] > 2 * errors[2]


def test_deviations_are_the_textbook_jackknife(logits):
    part = stratified(logits, nearest(logits, 10), torch.randperm(4000)[:800])
    values = kl(part.without_each_fold).numpy()
    drawn = part.folds.weight.sum(dim=1).numpy()
    correction = 1 - drawn / part.rest.numpy()
    variance = (
        (FOLDS - 1) / FOLDS * ((values.T - values.mean(axis=1)) ** 2).sum(axis=0) * correction
    )
    np.testing.assert_allclose(standard_error(part.deviations(kl)), np.sqrt(variance))


def test_a_rest_without_bulk_members_still_counts(logits):
    near = nearest(logits, 3990)
    bulk = torch.topk(logits[0], 80).indices  # all near to the first query
    part = stratified(logits, near, bulk)
    whole = part.whole()
    assert float(whole.weight[0]) == 4000
    assert torch.isfinite(kl(whole)).all()
    assert torch.isfinite(standard_error(part.deviations(kl))).all()


def test_reliability_is_the_signals_share():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(0, 2, 100_000), rng.normal(0, 1, 100_000)
    found = reliability(truth + noise, np.ones(100_000))
    assert found == pytest.approx(np.corrcoef(truth, truth + noise)[0, 1] ** 2, abs=0.01)
    assert reliability(truth, np.zeros(100_000)) == 1
    assert np.isnan(reliability(np.ones(5), np.ones(5)))
