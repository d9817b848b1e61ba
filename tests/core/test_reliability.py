import numpy as np
import pytest

from clipdre.core.reliability import reliability


def test_closed_form():
    assert reliability(np.array([1.0, 3.0]), np.array([0.1, 0.7])) == pytest.approx(1 - 0.25)


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_equals_the_squared_correlation_with_exact_values(noise):
    rng = np.random.default_rng(0)
    exact, error = rng.normal(0, 2, 100_000), rng.normal(0, noise, 100_000)
    expected = np.corrcoef(exact, exact + error)[0, 1] ** 2
    assert reliability(exact + error, np.full(100_000, noise)) == pytest.approx(expected, abs=0.01)


def test_values_without_error_are_fully_reliable():
    assert reliability(np.arange(5.0), np.zeros(5)) == 1


def test_pure_error_is_not_reliable():
    rng = np.random.default_rng(1)
    assert reliability(rng.normal(size=10_000), np.ones(10_000)) == pytest.approx(0, abs=0.05)
    assert reliability(np.array([1.0, 3.0]), np.array([2.0, 2.0])) == -3


def test_constant_values_are_undefined():
    assert np.isnan(reliability(np.ones(5), np.ones(5)))


def test_float32_columns_are_summed_in_float64():
    values = (4096 + np.random.default_rng(2).normal(size=200_000)).astype(np.float32)
    errors = np.full(200_000, 0.3, dtype=np.float32)
    expected = 1 - float(errors[0]) ** 2 / np.var(values.astype(np.float64))
    assert reliability(values, errors) == pytest.approx(expected, rel=1e-9)
