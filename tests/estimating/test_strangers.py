"""Pairs of another pool that a reference holds copies of."""

import numpy as np
import pytest
import torch

from clipdre.config import EstimateConfig, Own, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.estimating.estimate import Estimator
from clipdre.estimating.groups import NOBODY
from clipdre.estimating.strangers import places_alike
from tests.core import oracle
from tests.core.oracle import clustered_pool
from tests.estimating.stored import BIAS, SCALE, store

N, D = 400, 16
CONFIGS = {
    "exact": EstimateConfig(ReferenceMethod.EXACT),
    "stratified": EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=40, bulk=96),
    "sample": EstimateConfig(ReferenceMethod.SAMPLE, bulk=96),
}
# Rows of the reference that the other pool holds too, and how many rows of its own it has.
SHARED, OWN = np.arange(0, N, 8), 30


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    images, texts = clustered_pool(seed=2, n=N, d=D, noise=0.5)
    leaders = np.arange(N)
    leaders[[8, 9, 10]] = 8
    folder = tmp_path_factory.mktemp("strangers")
    return store(folder, images, texts, (150, 250), leaders)


@pytest.fixture(scope="module")
def others(stored):
    """Vectors of another pool: copies of some pairs of the reference, and pairs of its own."""
    fresh = clustered_pool(seed=3, n=OWN, d=D, noise=0.5)
    return {
        modality: torch.from_numpy(np.concatenate([vectors[SHARED], own])).float()
        for (modality, vectors), own in zip(stored.vectors.items(), fresh, strict=True)
    }


def estimator(stored, method, **changes):
    folder, _ = stored.reference(CONFIGS[method], method)
    return Estimator(folder, stored.model, pool=stored.pool, **changes)


@pytest.mark.parametrize("method", ["exact", "stratified"])
def test_copies_are_found_in_the_pool(stored, others, method):
    marginals = estimator(stored, method).marginals
    places = places_alike(marginals, others, 0.95)
    images = marginals[Modality.IMAGE]
    assert (images.hashes[places[: len(SHARED)]] == stored.hashes[SHARED]).all()
    assert places[len(SHARED) :].tolist() == [-1] * OWN


def test_copies_are_found_in_the_bulk_of_a_sample(stored, others):
    marginals = estimator(stored, "sample").marginals
    places = places_alike(marginals, others, 0.95)
    in_bulk = np.isin(stored.hashes[SHARED], marginals[Modality.IMAGE].bulk.hashes)
    assert 0 < in_bulk.sum() < len(SHARED)
    found = places[: len(SHARED)].numpy()
    np.testing.assert_array_equal(found != -1, in_bulk)
    np.testing.assert_array_equal(found[in_bulk], SHARED[in_bulk])


def test_pairs_alike_on_one_side_only_are_not_found(stored, others):
    marginals = estimator(stored, "exact").marginals
    shifted = {**others, Modality.TEXT: others[Modality.TEXT].roll(1, dims=0)}
    assert places_alike(marginals, shifted, 0.95).tolist() == [-1] * (len(SHARED) + OWN)


def test_columns_of_strangers_leave_out_what_is_alike(stored, others):
    hashes = np.arange(len(SHARED) + OWN, dtype=np.uint64)
    found = estimator(stored, "exact").estimates(*others.values(), hashes, N).columns
    rows = [*SHARED, *[NOBODY] * OWN]
    logits = SCALE * others[Modality.IMAGE].double().numpy() @ stored.vectors[Modality.TEXT].T
    kept = [stored.leaders != (stored.leaders[row] if row != NOBODY else NOBODY) for row in rows]
    expected = oracle.of_queries(BIAS + row[k] for row, k in zip(logits, kept, strict=True))
    np.testing.assert_allclose(found["kl_image"], expected["kl"], atol=2e-3)
    np.testing.assert_allclose(found["log_partition_image"], expected["log_partition"], atol=2e-3)
    np.testing.assert_allclose(found["klr_image"], expected["klr"], atol=2e-3)


@pytest.mark.parametrize("method", ["exact", "stratified"])
def test_own_counterparts_can_be_counted(stored, method):
    config = EstimateConfig(CONFIGS[method].method, neighbors=40, bulk=96, own=Own.COUNTED)
    folder, _ = stored.reference(config, f"counted-{method}")
    rows = [torch.from_numpy(vectors).float() for vectors in stored.vectors.values()]
    found = Estimator(folder, stored.model).estimates(*rows, stored.hashes, N).columns
    logits = stored.logits(Modality.IMAGE)
    expected = oracle.of_queries(logits)
    atol = 2e-3 if method == "exact" else 0.2
    np.testing.assert_allclose(found["kl_image"], expected["kl"], atol=atol)
    # With everything counted, a pair's log ratio is minus its CLIP loss.
    np.testing.assert_allclose(found["negcliploss"], found["log_ratio"], atol=1e-6)
    assert found["log_ratio"].max() < np.log(N)
