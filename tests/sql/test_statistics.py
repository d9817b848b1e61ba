import numpy as np
import pytest

from clipdre.sql import statistics
from clipdre.sql.statistics import errors, quantiles, share
from tests.helpers import read_scores
from tests.sql.made_up import query_of, random_hashes, write_pool

ROWS = 40
RNG = np.random.default_rng(3)
X = (1000 + RNG.standard_normal(ROWS)).astype(np.float32)
SE = RNG.random(ROWS).astype(np.float32) / 2


@pytest.fixture
def made_up(tmp_path):
    columns = {
        "key_hash": random_hashes(ROWS),
        "x": X,
        "x_se": SE,
        "flat": np.full(ROWS, 2.0, np.float32),
        "flat_se": SE,
    }
    return query_of(tmp_path, write_pool(tmp_path, (25, 15), columns))


def test_errors_are_those_of_all_rows(made_up):
    found = errors(made_up, ["flat", "x"])["x"]
    x, se = X.astype(float), SE.astype(float)
    assert found.mean == pytest.approx(x.mean(), rel=1e-12)
    assert found.spread == pytest.approx(x.std(), rel=1e-9)
    assert found.mean_se == pytest.approx(se.mean(), rel=1e-12)
    assert found.reliability == pytest.approx(1 - (se**2).mean() / x.var(), rel=1e-9)
    assert 0 < found.reliability < 1


def test_reliability_of_equal_values_is_unknown(made_up):
    found = errors(made_up, ["flat"])["flat"]
    assert (found.mean, found.spread) == (2, 0)
    assert np.isnan(found.reliability)


@pytest.mark.parametrize("held", [0, 2 * ROWS, 1000])
def test_quantiles_match_numpy(made_up, monkeypatch, held):
    monkeypatch.setattr(statistics, "HELD", held)
    probabilities = (0.0, 0.05, 0.5, 0.75, 1.0)
    found = quantiles(made_up, ["x", "x_se", "flat"], probabilities)
    assert list(found) == ["x", "x_se", "flat"]
    for name, values in (("x", X), ("x_se", SE), ("flat", np.full(ROWS, 2.0))):
        expected = np.quantile(values.astype(float), probabilities)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_quantiles_of_a_scored_pool_match_numpy(query, scored):
    kl = read_scores(*scored)["kl_text"].to_numpy().astype(float)
    found = quantiles(query, ["kl_text"], (0.25, 0.5))["kl_text"]
    np.testing.assert_allclose(found, np.quantile(kl, (0.25, 0.5)), rtol=1e-6)


def test_shares_match_numpy(made_up):
    assert share(made_up, "x > 1000") == pytest.approx((X > 1000).mean())
