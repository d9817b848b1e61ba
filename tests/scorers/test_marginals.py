import numpy as np
import pyarrow as pa
import pytest

from clipdre.errors import ScoresError, UsageError
from clipdre.scorers.marginals import Marginals
from tests.scorers.captions import add_column
from tests.scorers.measuring import measured

LANGUAGES = np.array(["en", "de", "fr", None], object)


@pytest.fixture
def attributes(scores):
    """Languages, of which one is frequent and one is missing, and topics that depend on them."""
    rng = np.random.default_rng(8)
    language = rng.choice(4, size=300, p=[0.7, 0.15, 0.1, 0.05])
    topic = (rng.random(300) < np.array([0.2, 0.6, 0.7, 0.5])[language]).astype(np.int64)
    add_column(scores, "language", LANGUAGES[language].tolist())
    add_column(scores, "topic", (topic == 1).tolist(), pa.bool_())
    return LANGUAGES[language], topic


def shares(values, weights):
    return {v: weights[values == v].sum() / weights.sum() for v in set(values.tolist())}


def test_one_column_gets_the_shares_that_are_asked_for(scores, attributes):
    language, _ = attributes
    found, record = measured(scores, Marginals(target=("language = {en = 2, de = 1, fr = 1}",)))
    weights = found["marginal_weight"].astype(np.float64)
    reached = shares(language, weights)
    assert reached["en"] == pytest.approx(0.5, abs=1e-6)
    assert reached["de"] == pytest.approx(0.25, abs=1e-6)
    assert reached[None] == 0
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    largest = found["marginal_probability"].max()
    assert largest == pytest.approx(1)
    assert record.figures["marginal_deviation"] < 1e-9
    kept = found["marginal_probability"].astype(np.float64).mean()
    assert record.figures["marginal_kept"] == pytest.approx(kept, abs=1e-6)


def test_a_column_becomes_independent_of_a_label(scores, attributes):
    language, topic = attributes
    settings = Marginals(target=('language = "uniform"',), label=("topic",))
    weights = measured(scores, settings)[0]["marginal_weight"].astype(np.float64)
    for value in (0, 1):
        own = shares(language[topic == value], weights[topic == value])
        assert [own[name] for name in ("en", "de", "fr")] == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_two_columns_at_once(scores, attributes):
    language, topic = attributes
    target = ("language = {en = 0.6, de = 0.4}", "topic = {true = 0.5, false = 0.5}")
    weights = measured(scores, Marginals(target=target))[0]["marginal_weight"].astype(np.float64)
    assert shares(language, weights)["en"] == pytest.approx(0.6, abs=1e-6)
    assert shares(topic, weights)[1] == pytest.approx(0.5, abs=1e-6)
    assert (weights[language == "fr"] == 0).all()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("language",), "cannot be read"),
        ((), "`target` is missing"),
        (("language = 3",), "no positive shares"),
        (("language = {en = -1, de = 2}",), "no positive shares"),
        (("language = {en = 0}",), "no positive shares"),
        (("language = {en = 'x'}",), "no positive shares"),
        (("language = {en = true}",), "no positive shares"),
        (("language = {en = nan}",), "no positive shares"),
        (("language = {en = 1e308, de = 1e308}",), "no positive shares"),
        ((f"language = {{en = 1{'0' * 400}}}",), "no positive shares"),
        ((f"language = {{en = 1{'0' * 5000}}}",), r"language = .* cannot be read: Exceeds"),
        ((f"language = {'[' * 3000}{']' * 3000}",), "cannot be read"),
        (("language = {en = 1}", "language = {de = 1}"), "names language twice"),
    ],
)
def test_wrong_targets_are_named(target, message):
    with pytest.raises(UsageError, match=message):
        Marginals(target=target)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"target": ("nope = 'uniform'",)}, UsageError, "there is no column nope"),
        ({"target": ("language = {xx = 1}",)}, ScoresError, "no pair has language xx"),
        (
            {"target": ("language = 'uniform'",), "label": ("nope",)},
            UsageError,
            "there is no column nope",
        ),
    ],
)
def test_targets_that_the_pool_does_not_have_are_named(
    scores, attributes, settings, error, message
):
    with pytest.raises(error, match=message):
        measured(scores, Marginals(**settings))


def test_too_many_combinations_are_refused(scores, monkeypatch):
    monkeypatch.setattr("clipdre.scorers.marginals.MOST_CELLS", 100)
    with pytest.raises(ScoresError, match="more than 100 combinations"):
        measured(scores, Marginals(target=("similarity = 'uniform'",)))
