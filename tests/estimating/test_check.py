import dataclasses
import tracemalloc

import numpy as np
import pytest

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.errors import UnreliableEstimateWarning
from clipdre.estimating.check import CHECKED, COLUMNS, check_reference
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, chosen, read_scores, tiny_score

PAIRS = 2000


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One pool scored in all three ways."""
    folder = tmp_path_factory.mktemp("three")
    write_pool(folder / "pool", PAIRS, seed=4, noise={})
    found = {}
    for method in (ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED, ReferenceMethod.SAMPLE):
        config = dataclasses.replace(TINY, estimate=EstimateConfig(method, neighbors=64, bulk=128))
        found[method.value] = (
            folder / method.value,
            tiny_score(folder / "pool", folder / method.value, config),
        )
    return found


def checked(runs, method):
    path, manifest = runs[method]
    return check_reference(ScoreFolder(path), manifest)


def column(table, name, rows=slice(None)):
    return table[name].to_numpy().astype(float)[rows]


def test_the_columns_are_those_with_an_error():
    assert COLUMNS == (
        "log_ratio_image",
        "log_ratio_text",
        "log_ratio",
        "negcliploss",
        "kl_image",
        "klr_image",
        "kl_text",
        "klr_text",
    )


def test_exact_scores_have_no_error(runs):
    found = checked(runs, "exact")
    assert found.cost == 1
    assert all(c.reliability == 1 and c.mean_se == 0 for c in found.columns)
    assert all(c.rmse < 1e-4 and c.rmse_near is None for c in found.columns)
    assert "exact for this pool" in found.advice


@pytest.mark.parametrize("method", ["stratified", "sample"])
def test_claimed_errors_are_those_of_all_rows(runs, method):
    table = read_scores(*runs[method])
    for c in checked(runs, method).columns:
        values, se = column(table, c.column), column(table, f"{c.column}_se")
        assert c.mean == pytest.approx(values.mean(), abs=1e-5)
        assert c.spread == pytest.approx(values.std(), rel=1e-5)
        assert c.mean_se == pytest.approx(se.mean(), rel=1e-4)
        assert c.reliability == pytest.approx(1 - (se**2).mean() / values.var(), abs=1e-6)


@pytest.mark.parametrize("method", ["exact", "stratified", "sample"])
def test_measured_errors_compare_the_scores_with_those_of_an_exact_run(runs, method):
    found = checked(runs, method)
    table, exact = read_scores(*runs[method]), read_scores(*runs["exact"])
    rows = np.argsort(table["key_hash"].to_numpy(), kind="stable")[PAIRS // 2 :][:CHECKED]
    for c in found.columns:
        expected, estimated = found.checked[c.column]
        np.testing.assert_allclose(expected, column(exact, c.column, rows), atol=1e-4)
        np.testing.assert_allclose(estimated, column(table, c.column, rows), atol=1e-4)
        error = column(table, c.column, rows) - column(exact, c.column, rows)
        assert c.rmse == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)


def test_twice_the_near_counterparts_and_twice_the_bulk_lower_the_error(runs):
    for c in checked(runs, "stratified").columns:
        assert c.rmse_near < c.rmse
    for c in checked(runs, "sample").columns:
        assert c.rmse_bulk < c.rmse
        assert c.rmse_near is None


def test_saturation_is_the_share_of_rows_near_log_n(runs):
    table = read_scores(*runs["exact"])
    found = {c.column: c.saturated for c in checked(runs, "exact").columns}
    near = column(table, "kl_text") > np.log(PAIRS - 1) - 1
    assert found["kl_text"] == pytest.approx(near.mean())
    assert found["log_ratio"] is None


def test_selecting_by_a_uniform_sample_warns(runs):
    assert "not reliable" in checked(runs, "sample").advice
    path, manifest = runs["sample"]
    with pytest.warns(UnreliableEstimateWarning, match="kl_image"):
        chosen((path, manifest), by="kl_image", top=10)


def test_claims_remain_without_embeddings(runs, tmp_path):
    path, manifest = runs["exact"]
    folder = ScoreFolder(tmp_path / "s")
    folder.path.mkdir()
    (folder.path / "scores").symlink_to(path / "scores")
    found = check_reference(folder, manifest)
    assert found.checked == {}
    assert all(c.rmse is None for c in found.columns)


def test_memory_does_not_hold_the_logits_of_the_pool(runs):
    tracemalloc.start()
    checked(runs, "exact")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
