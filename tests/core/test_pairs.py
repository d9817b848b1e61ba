import numpy as np
import pytest

from clipdre.core.modality import Modality
from tests.core import oracle
from tests.core.pair_cases import (
    BIAS,
    SCALE,
    N,
    bulk_folds,
    exact_pairs,
    near_mask,
    sampled_pairs,
    small_pool,
)


def naive(logits, near, folds, left_out):
    """Log partition and KL of one query, and both without each fold; scaled for the jackknife."""

    def estimate(folds):
        rest = N - 1 - near.sum()
        bulk = [m for fold in folds for m in fold if not near[m] and m != left_out]
        s = np.concatenate([logits[near], logits[bulk]])
        weights = np.concatenate([np.ones(near.sum()), np.full(len(bulk), rest / len(bulk))])
        mass = weights * np.exp(s)
        log_partition = np.log(mass.sum() / (N - 1))
        return np.array([log_partition, (mass / mass.sum() * s).sum() - log_partition])

    without = np.array([estimate(np.delete(folds, k, axis=0)) for k in range(len(folds))])
    drawn = sum(not near[m] and m != left_out for m in folds.ravel())
    f = len(folds)
    factor = np.sqrt((f - 1) / f * (1 - drawn / (N - 1 - near.sum())))
    return estimate(folds), factor * (without - without.mean(axis=0))


@pytest.fixture(scope="module")
def sampled():
    """Pairs with a bulk, and what the oracle finds: modality to estimates and deviations."""
    images, texts = small_pool()
    expected = {}
    for modality, own, other in (
        (Modality.IMAGE, images, texts),
        (Modality.TEXT, texts, images),
    ):
        logits = SCALE * own @ other.T + BIAS
        near, folds = near_mask(logits), bulk_folds(modality)
        found = [naive(logits[n], near[n], folds, n) for n in range(N)]
        expected[modality] = [np.array(part) for part in zip(*found, strict=True)]
    return sampled_pairs(images, texts), expected


def test_sides_are_named():
    pairs = exact_pairs(*small_pool())
    assert pairs.image is pairs.sides[Modality.IMAGE]
    assert pairs.text is pairs.sides[Modality.TEXT]
    np.testing.assert_array_equal(pairs.image.queries, small_pool()[0])


@pytest.mark.parametrize("modality", Modality)
def test_exact_sides_match_the_oracle(modality):
    images, texts = small_pool()
    pairs, expected = exact_pairs(images, texts), oracle.scores(images, texts, SCALE, BIAS)
    side = pairs.sides[modality]
    found = {
        "log_partition": side.log_partition,
        "kl": side.kl,
        "klr": side.reverse_kl,
        "dw": side.covariance_norm,
        "dc": side.centred_norm,
        "ess": side.effective_sample_size,
        "log_ratio": pairs.log_ratio_of(modality),
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[f"{name}_{modality}"], rtol=1e-9, err_msg=name)
    assert side.log_partition_deviations.shape == (N, 0)
    assert side.log_partition_se.tolist() == side.kl_se.tolist() == [0] * N
    assert pairs.log_ratio_se.tolist() == [0] * N


@pytest.mark.parametrize("modality", Modality)
def test_sampled_sides_match_a_jackknife_from_the_logits(sampled, modality):
    pairs, expected = sampled
    side, (estimates, deviations) = pairs.sides[modality], expected[modality]
    np.testing.assert_allclose(side.log_partition, estimates[:, 0], rtol=1e-9)
    np.testing.assert_allclose(side.kl, estimates[:, 1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        side.log_partition_deviations, deviations[:, :, 0], rtol=1e-6, atol=1e-12
    )
    errors = np.sqrt((deviations**2).sum(axis=1))
    assert errors.min() > 0
    np.testing.assert_allclose(side.log_partition_se, errors[:, 0], rtol=1e-6)
    np.testing.assert_allclose(side.kl_se, errors[:, 1], rtol=1e-6)


def test_error_of_the_log_ratio_includes_the_covariance_of_its_sides(sampled):
    pairs, expected = sampled
    both = sum(deviations[:, :, 0] for _, deviations in expected.values()) / 2
    errors = np.sqrt((both**2).sum(axis=1))
    np.testing.assert_allclose(pairs.log_ratio_se, errors, rtol=1e-6)
    independent = sum((d[:, :, 0] ** 2).sum(axis=1) for _, d in expected.values()) / 4
    assert (np.abs(errors**2 - independent) > 0.01 * independent).any()
