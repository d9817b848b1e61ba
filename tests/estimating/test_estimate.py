"""The stratified way on a pool as peaked as real models make it, where exact is known."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.estimating.estimate import Estimator
from clipdre.estimating.reference import build_reference
from clipdre.formats.folders.embeddings import EmbeddingFiles, StoredPool
from clipdre.formats.folders.records import ModelRecord
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hashes
from clipdre.truth.embeddings import EmbeddingWorld

PAIRS, D, ROWS = 12_000, 64, 3000
COLUMNS = ("log_ratio", "kl_image", "kl_text", "klr_image", "klr_text")
MODEL = ModelRecord(
    name="synthetic",
    pretrained=None,
    digest="synthetic",
    embedding_dim=D,
    logit_scale=100.0,
    logit_bias=0.0,
    precision="fp32",
    preprocessing={},
)


@pytest.fixture(scope="module", params=[0.2, 0.6])
def estimates(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimates")
    world = EmbeddingWorld(D, noise=request.param)
    images, texts = world.draw(PAIRS, np.random.default_rng(0))
    hashes = key_hashes("s", [str(n) for n in range(PAIRS)])
    columns = {n: pa.nulls(PAIRS, SAMPLE_SCHEMA.field(n).type) for n in SAMPLE_SCHEMA.names}
    columns["key_hash"] = pa.array(hashes)
    file = EmbeddingFiles(folder, 0, 1)
    samples = pa.table(columns, schema=SAMPLE_SCHEMA)
    file.write(images.astype(np.float16), texts.astype(np.float16), samples, {})
    pool, found = StoredPool([file]), {}
    for method in (ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED):
        reference = ReferenceFolder(folder / method.value)
        config = EstimateConfig(method, neighbors=1000, bulk=1024)
        record = build_reference(pool, hashes, MODEL, config, reference)
        rows = pool.read("image", 0, ROWS), pool.read("text", 0, ROWS), hashes[:ROWS]
        found[method.value] = Estimator(reference, MODEL).columns(*rows, PAIRS)
    return found["exact"], found["stratified"], record


@pytest.mark.parametrize("column", COLUMNS)
def test_ranks_and_values_are_those_of_exact(estimates, column):
    exact, stratified, _ = estimates
    assert spearmanr(exact[column], stratified[column])[0] >= 0.998
    assert np.sqrt(np.mean((exact[column] - stratified[column]) ** 2)) <= 0.06


@pytest.mark.parametrize("column", COLUMNS)
def test_errors_are_honest(estimates, column):
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


def test_what_needs_no_sample_is_exact(estimates):
    exact, stratified, _ = estimates
    for column in ("similarity", "dw_image", "dw_text", "dc_image", "dc_text"):
        np.testing.assert_allclose(stratified[column], exact[column], rtol=1e-5)
