"""Estimates on a pool as peaked as those of real models, where exact is known."""

import math

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.errors import ScoresError
from clipdre.estimating import estimate
from clipdre.estimating.estimate import (
    Estimator,
    estimate_rows,
    query_rows,
    usable_reference,
)
from clipdre.estimating.marginal import Bulk, Reading
from clipdre.estimating.reference import build_reference
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.truth.embeddings import EmbeddingWorld
from tests.core import oracle
from tests.estimating.stored import BIAS, SCALE, model_of, store

PAIRS, D, ROWS = 12_000, 64, 3000
COLUMNS = ("log_ratio", "kl_image", "kl_text", "klr_image", "klr_text")


@pytest.fixture(scope="module", params=[0.2, 0.6])
def estimates(request, tmp_path_factory):
    """Columns of some rows, exact and stratified, and the stratified reference's record."""
    world = EmbeddingWorld(D, noise=request.param)
    images, texts = world.draw(PAIRS, np.random.default_rng(0))
    stored = store(tmp_path_factory.mktemp("estimates"), images, texts, (PAIRS,))
    model, found = model_of(D, scale=100.0), {}
    rows = [stored.pool.read(modality, 0, ROWS) for modality in Modality]
    for method in (ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED):
        folder = ReferenceFolder(stored.folder / method.value)
        config = EstimateConfig(method, neighbors=1000, bulk=1024)
        inputs = stored.pool, stored.hashes, stored.leaders, model
        record = build_reference(*inputs, config, folder)
        estimator = Estimator(folder, model)
        found[method.value] = estimator.estimates(*rows, stored.hashes[:ROWS], PAIRS).columns
    return found["exact"], found["stratified"], record


@pytest.mark.parametrize("column", COLUMNS)
def test_stratified_ranks_and_values_are_close_to_exact(estimates, column):
    exact, stratified, _ = estimates
    assert spearmanr(exact[column], stratified[column])[0] >= 0.998
    assert np.sqrt(np.mean((exact[column] - stratified[column]) ** 2)) <= 0.06


@pytest.mark.parametrize("column", COLUMNS)
def test_errors_are_as_large_as_claimed(estimates, column):
    exact, stratified, _ = estimates
    error = np.abs(exact[column] - stratified[column])
    within = (error <= 2 * stratified[f"{column}_se"]) | (error <= 0.01)
    assert within.mean() >= 0.85
    claimed = 1 - np.mean(stratified[f"{column}_se"] ** 2) / np.var(stratified[column])
    true = np.corrcoef(exact[column], stratified[column])[0, 1] ** 2
    assert claimed == pytest.approx(true, abs=0.005)


def test_only_a_part_of_the_pool_is_evaluated(estimates):
    _, _, record = estimates
    for near in record.near.values():
        assert near.mass >= 0.995
        assert near.share * PAIRS >= 1000
        assert near.share < 0.5


def test_columns_without_a_partition_are_exact(estimates):
    exact, stratified, _ = estimates
    for column in ("similarity", "dw_image", "dw_text", "dc_image", "dc_text"):
        np.testing.assert_allclose(stratified[column], exact[column], rtol=1e-5)


N = 300
ALL = {
    "exact": EstimateConfig(ReferenceMethod.EXACT),
    "stratified": EstimateConfig(ReferenceMethod.STRATIFIED, neighbors=40, bulk=64),
    "sample": EstimateConfig(ReferenceMethod.SAMPLE, bulk=64),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    images, texts = oracle.clustered_pool(seed=4, n=N, d=16, noise=0.5)
    return store(tmp_path_factory.mktemp("small"), images, texts, (120, 0, 180))


@pytest.fixture(scope="module")
def expected(small):
    return oracle.scores(*small.vectors.values(), SCALE, BIAS)


def estimator_of(small, method, **options):
    folder, _ = small.reference(ALL[method], method)
    return Estimator(folder, small.model, **options)


class TestEstimator:
    def test_exact_columns_match_the_oracle(self, small):
        estimator = estimator_of(small, "exact", tau=100)
        found = estimate_rows(small.pool, small.hashes, estimator, 0, N).columns
        assert list(found)[: len(SCORE_COLUMNS)] == list(SCORE_COLUMNS)
        assert all("_tau" in name for name in list(found)[len(SCORE_COLUMNS) :])
        expected = oracle.scores(*small.vectors.values(), SCALE, BIAS, tau=100)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-4, rtol=1e-4, err_msg=name)

    @pytest.mark.parametrize("method", ALL)
    def test_columns_do_not_depend_on_the_block(self, small, method, monkeypatch):
        estimator = estimator_of(small, method)
        whole = estimate_rows(small.pool, small.hashes, estimator, 0, N)
        monkeypatch.setattr(estimate, "QUERY_ROWS", 37)
        monkeypatch.setattr(estimate, "MANY_QUERY_ROWS", 37)
        assert estimator.query_rows == 37
        parts = [
            estimate_rows(small.pool, small.hashes, estimator, start, stop)
            for start, stop in ((0, 100), (100, 100), (100, N))
        ]
        assert len(parts[1].columns["kl_text"]) == 0
        for kind in ("columns", "halves"):
            expected = getattr(whole, kind)
            assert list(getattr(parts[1], kind)) == list(expected)
            for name, values in expected.items():
                joined = np.concatenate([getattr(part, kind)[name] for part in parts])
                np.testing.assert_allclose(joined, values, atol=1e-5, rtol=1e-5, err_msg=name)

    @pytest.mark.parametrize("method", ["stratified", "sample"])
    def test_infinite_margins_are_exact(self, small, expected, method):
        estimator = estimator_of(small, method, pool=small.pool)
        vectors = [small.pool.read(modality, 0, N) for modality in Modality]
        everything = dict.fromkeys(Modality, Reading(margin=math.inf))
        pairs = estimator.pairs(*vectors, small.hashes, N, everything)
        for modality in Modality:
            found = pairs.sides[modality].kl
            np.testing.assert_allclose(found, expected[f"kl_{modality}"], atol=1e-4)
        assert pairs.log_ratio_se.abs().max() == 0

    def test_readings_are_those_of_the_counterparts(self, small, expected):
        """With texts exact, only images have exact partitions: their counterparts are texts."""
        estimator = estimator_of(small, "sample", pool=small.pool)
        vectors = [small.pool.read(modality, 0, N) for modality in Modality]
        bulk = Bulk(small.pool.take(Modality.IMAGE, np.arange(80)), small.hashes[:80], 8)
        readings = {Modality.TEXT: Reading(margin=math.inf), Modality.IMAGE: Reading(bulk=bulk)}
        pairs = estimator.pairs(*vectors, small.hashes, N, readings)
        assert pairs.image.kl_se.abs().max() == 0
        np.testing.assert_allclose(pairs.image.kl, expected["kl_image"], atol=1e-4)
        assert pairs.text.partition.folds.weight.shape == (N, 8)
        assert (pairs.text.kl_se > 0).all()

    def test_the_pool_size_only_scales_contributions(self, small):
        estimator = estimator_of(small, "exact")
        rows = [small.pool.read(modality, 0, 5) for modality in Modality]
        found = estimator.estimates(*rows, small.hashes[:5], pool_size=1000).columns
        np.testing.assert_allclose(found["kl_contribution"], found["log_ratio"] / 1000)


class TestUsableReference:
    def test_is_one_of_the_same_model(self, small):
        folder, record = small.reference(ALL["exact"], "exact")
        assert usable_reference(folder.path, small.model) == record

    def test_must_be_there(self, small, tmp_path):
        with pytest.raises(ScoresError, match="holds no reference: score that pool to its end"):
            usable_reference(tmp_path, small.model)

    def test_of_another_model_is_refused(self, small):
        folder, _ = small.reference(ALL["exact"], "exact")
        with pytest.raises(ScoresError, match="was made with other weights than made-up as loaded"):
            usable_reference(folder.path, model_of(16, digest="other"))
        with pytest.raises(ScoresError, match="other weights"):
            Estimator(folder, model_of(16, digest="other"))


@pytest.mark.parametrize(
    ("method", "device", "rows"),
    [
        ("exact", "cpu", estimate.QUERY_ROWS),
        ("sample", "cpu", estimate.QUERY_ROWS),
        ("stratified", "cpu", estimate.MANY_QUERY_ROWS),
        ("exact", "cuda", estimate.MANY_QUERY_ROWS),
    ],
)
def test_blocks_are_large_where_it_pays(small, method, device, rows):
    _, record = small.reference(ALL[method], method)
    assert query_rows(record, torch.device(device)) == rows


@pytest.mark.parametrize(("cells", "rows"), [(4096, 65_536), (8192, 32_768), (2**40, 1)])
def test_blocks_are_smaller_where_there_are_more_cells(small, cells, rows):
    _, record = small.reference(ALL["stratified"], "stratified")
    near = {
        Modality.IMAGE: msgspec.structs.replace(record.near[Modality.IMAGE], cells=cells),
        Modality.TEXT: record.near[Modality.TEXT],
    }
    record = msgspec.structs.replace(record, near=near)
    assert query_rows(record, torch.device("cpu")) == rows
