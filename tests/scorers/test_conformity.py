import numpy as np
import pytest

from clipdre.core.modality import Modality
from clipdre.scorers.conformity import Conformity
from tests.scorers.measuring import measured, stored_vectors


@pytest.mark.parametrize("modality", list(Modality))
def test_it_is_the_mean_cosine_with_all_others(scores, modality):
    found, record = measured(scores, Conformity())
    vectors = stored_vectors(scores, modality)
    expected = [
        np.mean([v @ w for m, w in enumerate(vectors) if m != n]) for n, v in enumerate(vectors)
    ]
    np.testing.assert_allclose(found[f"conformity_{modality}"], expected, atol=1e-6)
    mean = record.figures[f"conformity_{modality}_mean"]
    assert mean == pytest.approx(np.mean(expected), abs=1e-6)


def test_what_is_far_from_the_mean_conforms_least(scores):
    found, _ = measured(scores, Conformity())
    vectors = stored_vectors(scores, Modality.TEXT)
    distances = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    assert np.argmax(distances) == np.argmin(found["conformity_text"])
