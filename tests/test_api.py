"""The public names, and that every example in their docstrings runs as it stands."""

import doctest
import types

import numpy as np
import pytest

import clipdre
from clipdre import api
from clipdre.errors import ScoresError
from clipdre.truth.pool import write_pool
from tests.core import oracle
from tests.helpers import TINY, tiny_score

NAMES = [
    "Scores",
    "density_ratio",
    "effective_sample_size",
    "emit",
    "importance_weights",
    "kl_divergence",
    "open_scores",
    "reference_report",
    "reverse_kl_divergence",
    "score",
    "score_embeddings",
    "select",
    "weigh",
]


def test_the_public_names_are_these():
    assert clipdre.__all__ == NAMES
    assert set(dir(clipdre)) >= {*NAMES, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = clipdre.nosuch


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name):
    value = getattr(clipdre, name)
    assert value.__doc__
    if isinstance(value, types.FunctionType):
        assert "Examples\n" in value.__doc__


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "demo" / "clean", 200, seed=1, noise={})
    tiny_score(tmp_path / "demo" / "clean", tmp_path / "demo" / "scores-clean", TINY)
    outcome = doctest.testmod(api, raise_on_error=False)
    assert outcome.failed == 0
    assert outcome.attempted > 30


@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_arrays_against_the_oracle(bias):
    rng = np.random.default_rng(0)
    images, texts = oracle.clustered_pool(1, n=60, d=16, noise=0.6)
    expected = oracle.scores(images, texts, 100.0, bias)
    given = images * rng.uniform(1, 5, (60, 1)), texts * rng.uniform(1, 5, (60, 1))
    model = {"logit_scale": 100.0, "logit_bias": bias}
    np.testing.assert_allclose(clipdre.density_ratio(*given, **model), expected["log_ratio"])
    for function, name in (
        (clipdre.kl_divergence, "kl"),
        (clipdre.reverse_kl_divergence, "klr"),
        (clipdre.effective_sample_size, "ess"),
    ):
        for found, side in zip(function(*given, **model), ("image", "text"), strict=True):
            np.testing.assert_allclose(found, expected[f"{name}_{side}"], atol=1e-9)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([[1.0, 0.0]], [[1.0, 0.0]], "give 2 pairs or more, not 1"),
        ([[1.0, 0.0]] * 3, [[1.0, 0.0]] * 2, "must have the same shape"),
        ([[1.0, 0.0]] * 2, [[0.0, 0.0]] * 2, "without zero rows"),
        ([[1.0, np.nan]] * 2, [[0.0, 1.0]] * 2, "finite"),
        ([1.0, 2.0], [1.0, 2.0], "must be of shape"),
    ],
)
def test_arrays_that_are_no_pairs_are_refused(images, texts, message):
    with pytest.raises(ValueError, match=message):
        clipdre.density_ratio(images, texts, logit_scale=1.0)


def test_a_dataset_reads_only_what_is_asked(scored):
    scores = clipdre.open_scores(scored[0])
    table = scores.dataset().to_table(columns=["key", "kl_text"])
    assert table.column_names == ["key", "kl_text"]
    assert table.num_rows == 300
    with pytest.raises(ScoresError):
        clipdre.open_scores(scored[0] / "scores")
