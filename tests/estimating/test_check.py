import dataclasses

import numpy as np
import pytest

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.errors import UnreliableEstimateWarning
from clipdre.estimating.check import report
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, chosen, read_scores, tiny_score


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One pool scored in all three ways."""
    folder = tmp_path_factory.mktemp("three")
    write_pool(folder / "pool", 2000, seed=4, noise={})
    found = {}
    for method in (ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED, ReferenceMethod.SAMPLE):
        config = dataclasses.replace(TINY, estimate=EstimateConfig(method, neighbors=64, bulk=128))
        found[method.value] = (
            folder / method.value,
            tiny_score(folder / "pool", folder / method.value, config),
        )
    return found


def reported(runs, method):
    path, manifest = runs[method]
    return report(ScoreFolder(path), manifest)


def test_exact_is_reliable_and_free_of_error(runs):
    found = reported(runs, "exact")
    assert found.cost == 1
    assert all(c.reliability == 1 and c.mean_se == 0 for c in found.columns)
    assert all(c.rmse < 1e-3 for c in found.columns)
    assert "exact for this pool" in found.advice


@pytest.mark.parametrize("method", ["stratified", "sample"])
def test_claims_are_the_columns_own_and_measured_errors_the_real_ones(runs, method):
    found = reported(runs, method)
    table, exact = read_scores(*runs[method]), read_scores(*runs["exact"])
    for c in found.columns:
        values = table[c.column].to_numpy().astype(float)
        se = table[f"{c.column}_se"].to_numpy().astype(float)
        assert c.mean == pytest.approx(values.mean(), abs=1e-5)
        assert c.spread == pytest.approx(values.std(), rel=1e-5)
        assert c.reliability == pytest.approx(1 - (se**2).mean() / values.var(), abs=1e-6)
        expected, estimated = found.checked[c.column]
        assert (
            np.isin(expected.round(2), exact[c.column].to_numpy().astype(float).round(2)).mean()
            > 0.9
        )
        assert c.rmse == pytest.approx(np.sqrt(((estimated - expected) ** 2).mean()))
        error = values - exact[c.column].to_numpy()
        assert c.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1.0, abs=0.02)


def test_twice_as_much_buys_something(runs):
    for c in reported(runs, "stratified").columns:
        assert c.rmse_near < c.rmse
    for c in reported(runs, "sample").columns:
        assert c.rmse_bulk < c.rmse
        assert c.rmse_near is None


def test_a_sample_is_not_to_be_trusted_and_a_selection_by_it_warns(runs):
    assert "not to be trusted" in reported(runs, "sample").advice.replace("\n", " ")
    path, manifest = runs["sample"]
    with pytest.warns(UnreliableEstimateWarning, match="kl_image has a reliability of 0"):
        chosen((path, manifest), by="kl_image", top=10)


def test_without_embeddings_the_claims_remain(runs, tmp_path):
    path, manifest = runs["exact"]
    folder = ScoreFolder(tmp_path / "s")
    folder.path.mkdir()
    (folder.path / "scores").symlink_to(path / "scores")
    found = report(folder, manifest)
    assert found.checked == {}
    assert all(c.rmse is None for c in found.columns)
