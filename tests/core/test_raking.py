import numpy as np
import pytest
from scipy.optimize import minimize

from clipdre.core.raking import Marginal, rake

# Cells of two columns of three and two values, one of them empty and left out.
FIRST = np.array([0, 0, 1, 1, 2])
SECOND = np.array([0, 1, 0, 1, 1])
COUNTS = np.array([50.0, 10.0, 5.0, 20.0, 15.0])


def test_one_marginal_has_a_closed_form():
    weights, error = rake(COUNTS, [Marginal(FIRST, np.array([0.5, 0.2, 0.3]))])
    shares = np.bincount(FIRST, COUNTS) / COUNTS.sum()
    np.testing.assert_allclose(weights, (np.array([0.5, 0.2, 0.3]) / shares)[FIRST], rtol=1e-12)
    assert error < 1e-9


def test_two_marginals_are_met_by_the_nearest_weights():
    """Nearest in relative entropy, as a general solver finds them."""
    one, two = np.array([0.4, 0.35, 0.25]), np.array([0.45, 0.55])
    weights, error = rake(COUNTS, [Marginal(FIRST, one), Marginal(SECOND, two)])
    prior = COUNTS / COUNTS.sum()
    solved = minimize(
        lambda q: (q * np.log(np.maximum(q, 1e-12) / prior)).sum(),
        prior,
        bounds=[(1e-9, 1)] * 5,
        constraints=[
            {"type": "eq", "fun": lambda q: np.bincount(FIRST, q) - one},
            {"type": "eq", "fun": lambda q: (np.bincount(SECOND, q) - two)[:1]},
        ],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert solved.success
    assert error < 1e-9
    np.testing.assert_allclose(weights * prior, solved.x, atol=1e-5)
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())


def test_what_cannot_be_met_is_reported():
    """The third value of the first column always comes with the second of the other."""
    one, two = np.array([0.1, 0.1, 0.8]), np.array([0.5, 0.5])
    weights, error = rake(COUNTS, [Marginal(FIRST, one), Marginal(SECOND, two)])
    assert error > 0.1
    assert np.isfinite(weights).all()


def test_without_marginals_all_weigh_the_same():
    assert rake(COUNTS, [])[0].tolist() == [1.0] * 5
