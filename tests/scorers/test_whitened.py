import numpy as np
import pytest
from scipy.stats import multivariate_normal

from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers.whitened import Whitened
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def floored(covariance, floor):
    values, vectors = np.linalg.eigh(covariance)
    raised = np.maximum(values, floor * values.max())
    return (vectors * raised) @ vectors.T, np.log(raised).sum(), (values < raised).sum()


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("floor", [1e-3, 0.5])
def test_it_is_the_normal_density_without_the_determinant(scores, modality, floor):
    found, record = measured(scores, Whitened(floor), rows_at_once=64)
    vectors = stored_vectors(scores, modality)
    covariance, log_determinant, raised = floored(np.cov(vectors.T, bias=True), floor)
    density = multivariate_normal(vectors.mean(axis=0), covariance).logpdf(vectors)
    expected = density + log_determinant / 2
    np.testing.assert_allclose(found[f"likelihood_{modality}"], expected, rtol=1e-5)
    assert record.figures[f"raised_{modality}"] == raised > 0


def test_the_pool_is_white_on_average(scores):
    """The squared length of a whitened vector is its number of dimensions on average."""
    found, record = measured(scores, Whitened(floor=1e-12))
    assert record.figures["raised_image"] == 0
    expected = -128 * (np.log(2 * np.pi) + 1) / 2
    assert found["likelihood_image"].mean() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("floor", [0.0, -1.0, 1.5])
def test_a_floor_is_a_share(scores, floor):
    with pytest.raises(UsageError, match=r"`floor` .* is not a share"):
        measured(scores, Whitened(floor))


def test_vectors_that_are_all_the_same_have_a_likelihood(scores):
    store_vectors(scores, np.ones((300, 8)), np.ones((300, 8)))
    found, record = measured(scores, Whitened())
    np.testing.assert_allclose(found["likelihood_image"], -8 * np.log(2 * np.pi) / 2, atol=1e-3)
    assert record.figures["raised_image"] == 8
