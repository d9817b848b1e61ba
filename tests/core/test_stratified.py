import numpy as np
import pytest
import torch

from clipdre.core.divergence import kl
from clipdre.core.partition import RunningPartition
from clipdre.core.stratified import StratifiedPartition, standard_error
from tests.core.oracle import of_queries
from tests.core.pair_cases import by_half

FOLDS = 8


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 2.0 * torch.randn(200, 4000, dtype=torch.float64)


@pytest.fixture
def exact(logits):
    return torch.from_numpy(of_queries(logits.numpy())["kl"])


def nearest(logits, k):
    """Mask of the k largest logits of each query."""
    near = torch.zeros_like(logits, dtype=torch.bool)
    return near.scatter_(1, logits.topk(k, dim=1).indices, True) if k else near


def stratified(logits, near, bulk):
    """Estimate from the full logits (n, m), a mask of near references, and the bulk's columns."""
    shape = (len(logits), FOLDS, len(bulk) // FOLDS)
    folds = RunningPartition.of(logits[:, bulk].clone().view(shape), near[:, bulk].view(shape))
    rest = (~near).view(len(logits), -1, 2).sum(dim=1).double()
    return StratifiedPartition(by_half(logits, ~near), folds, rest)


def naive_kl(near, bulk, rest):
    """KL of one query from the logits of near references and of a bulk that represents `rest`."""
    s = np.concatenate([near, bulk])
    weights = np.concatenate([np.ones(len(near)), np.full(len(bulk), rest / len(bulk))])
    mass = weights * np.exp(s)
    log_partition = np.log(mass.sum() / (len(near) + rest))
    return (mass / mass.sum() * s).sum() - log_partition


def naive_estimate(row, k, folds):
    """KL of one query, without each fold, and its jackknife standard error, from its logits.

    `folds` holds the bulk's columns by fold.
    """
    near = set(np.argsort(-row)[:k].tolist())
    rest = len(row) - k
    outside = [[row[column] for column in fold if column not in near] for fold in folds]

    def estimate(folds):
        return naive_kl(row[list(near)], np.concatenate(folds), rest)

    drawn = sum(len(fold) for fold in outside)
    without = np.array([estimate(outside[:n] + outside[n + 1 :]) for n in range(len(folds))])
    variance = (len(folds) - 1) / len(folds) * ((without - without.mean()) ** 2).sum()
    return estimate(outside), without, np.sqrt(variance * (1 - drawn / rest))


@pytest.mark.parametrize("k", [0, 10, 200])
def test_estimate_and_error_match_a_jackknife_from_the_logits(logits, k):
    logits = logits[:40]
    bulk = torch.randperm(4000)[:800]
    part = stratified(logits, nearest(logits, k), bulk)
    folds = bulk.view(FOLDS, -1).tolist()
    expected = [naive_estimate(row, k, folds) for row in logits.numpy()]
    estimates, without, errors = zip(*expected, strict=True)
    np.testing.assert_allclose(kl(part.whole()), estimates, rtol=1e-9)
    np.testing.assert_allclose(kl(part.without_each_fold), without, rtol=1e-9)
    np.testing.assert_allclose(standard_error(part.deviations(kl)), errors, rtol=1e-6)


def test_all_references_near_is_exact_without_error(logits, exact):
    part = StratifiedPartition(
        by_half(logits, torch.zeros_like(logits, dtype=torch.bool)),
        RunningPartition.empty(200, 0),
        torch.zeros(200, 2, dtype=torch.float64),
    )
    torch.testing.assert_close(kl(part.whole()), exact)
    assert part.deviations(kl).shape == (200, 0)
    assert torch.equal(standard_error(part.deviations(kl)), torch.zeros(200).double())


def test_bulk_of_the_whole_pool_is_exact_without_error(logits, exact):
    part = stratified(logits, nearest(logits, 0), torch.randperm(4000))
    torch.testing.assert_close(kl(part.whole()), exact)
    assert standard_error(part.deviations(kl)).abs().max() == 0


@pytest.mark.parametrize("k", [20, 50])
def test_estimate_is_unbiased_and_its_error_calibrated(logits, exact, k):
    part = stratified(logits, nearest(logits, k), torch.randperm(4000)[:800])
    error = kl(part.whole()) - exact
    se = standard_error(part.deviations(kl))
    assert (error.abs() <= 2 * se).double().mean() >= 0.85
    claimed, found = se.square().mean().sqrt(), error.square().mean().sqrt()
    assert float(claimed) == pytest.approx(float(found), rel=0.25)
    assert abs(float(error.mean())) < 3 * float(error.std()) / len(error) ** 0.5


def test_near_references_reduce_the_error(logits, exact):
    bulk = torch.randperm(4000)[:800]
    errors = [
        (kl(stratified(logits, nearest(logits, k), bulk).whole()) - exact).square().mean().sqrt()
        for k in (0, 20, 100)
    ]
    assert errors[0] > 5 * errors[1]
    assert errors[1] > errors[2]


def test_deviations_of_a_sum_include_the_covariance(logits):
    part = stratified(logits, nearest(logits, 10), torch.randperm(4000)[:800])

    def log_partition(partition):
        return partition.log_mean_exp()

    both = part.deviations(kl) + part.deviations(log_partition)
    together = part.deviations(lambda p: kl(p) + log_partition(p))
    torch.testing.assert_close(both, together)
    independent = standard_error(part.deviations(kl)) ** 2
    independent += standard_error(part.deviations(log_partition)) ** 2
    assert (
        (standard_error(both) ** 2 - independent).abs() > 0.1 * independent
    ).double().mean() > 0.5


def test_counterparts_without_bulk_members_still_count(logits):
    near = nearest(logits, 3990)
    bulk = torch.topk(logits[0], 80).indices  # all near to the first query
    part = stratified(logits, near, bulk)
    assert part.folds.weight[0].sum() == 0
    whole = part.whole()
    assert float(whole.weight[0]) == 4000
    mass = torch.exp(logits[0][near[0]]).sum() / 4000
    torch.testing.assert_close(whole.log_mean_exp()[0], torch.log(mass))
    assert torch.isfinite(kl(whole)).all()
    assert torch.isfinite(standard_error(part.deviations(kl))).all()


@pytest.mark.parametrize("k", [0, 10])
def test_a_half_is_estimated_from_its_own_members(logits, k):
    logits = logits[:40]
    columns = torch.randperm(4000)
    bulk = torch.cat([columns[columns % 2 == half][:400] for half in (0, 1)])
    near = nearest(logits, k)
    part = stratified(logits, near, bulk)
    for half in (0, 1):
        own = [bulk[half * 400 : (half + 1) * 400].tolist()]
        expected = []
        for row, mask in zip(logits.numpy(), near.numpy(), strict=True):
            members = np.flatnonzero(mask)
            members = members[members % 2 == half]
            outside = [m for m in own[0] if not mask[m]]
            expected.append(naive_kl(row[members], row[outside], 2000 - len(members)))
        found = part.half(half)
        np.testing.assert_allclose(kl(found), expected, rtol=1e-9)
        np.testing.assert_array_equal(found.weight, np.full(40, 2000))


def test_halves_of_an_exact_partition_merge_to_the_whole(logits, exact):
    near = torch.ones_like(logits, dtype=torch.bool)
    part = StratifiedPartition(
        by_half(logits, ~near), RunningPartition.empty(200, 0), torch.zeros(200, 2).double()
    )
    torch.testing.assert_close(kl(part.half(0).merge(part.half(1))), exact)
    expected = of_queries(logits[:, 1::2].numpy())["kl"]
    np.testing.assert_allclose(kl(part.half(1)), expected, rtol=1e-9)
