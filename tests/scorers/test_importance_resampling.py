import hashlib
import math
from collections import Counter

import numpy as np
import pytest

from clipdre.errors import InputError, UsageError
from clipdre.scorers.importance_resampling import ImportanceResampling
from tests.scorers.captions import recaptioned
from tests.scorers.measuring import measured

CAPTIONS = ("A red car", "a red car, parked!", "", "the sea; the sea", "Ein Haus")
TARGET = ("the red sea", "a car", "Sea!")
WORDS = {
    "A red car": ["a", "red", "car"],
    "a red car, parked!": ["a", "red", "car", ",", "parked", "!"],
    "": [],
    "the sea; the sea": ["the", "sea", ";", "the", "sea"],
    "Ein Haus": ["ein", "haus"],
    "the red sea": ["the", "red", "sea"],
    "a car": ["a", "car"],
    "Sea!": ["sea", "!"],
}


def n_grams(caption):
    words = WORDS[caption]
    return words + [f"{words[n]} {words[n + 1]}" for n in range(len(words) - 1)]


def naive(captions, target, buckets):
    """n-gram by n-gram, from the definition."""

    def hashed(gram):
        return int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets

    def shares(texts):
        counts = Counter(hashed(gram) for text in texts for gram in n_grams(text))
        total = sum(counts.values())
        return lambda bucket: counts[bucket] / total

    ours, theirs = shares(captions), shares(target)
    return [
        sum(
            math.log(theirs(hashed(gram)) + 1e-8) - math.log(ours(hashed(gram)) + 1e-8)
            for gram in n_grams(caption)
        )
        for caption in captions
    ]


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target.txt").write_text("\n".join(TARGET))
    return str(tmp_path / "target.txt")


@pytest.mark.parametrize("buckets", [3, 10_000])
def test_it_is_the_weight_of_the_definition(scores, target, buckets):
    captions = recaptioned(scores, CAPTIONS)
    found, _ = measured(scores, ImportanceResampling(target=target, buckets=buckets))
    expected = naive(captions, TARGET, buckets)
    np.testing.assert_allclose(found["dsir_log_weight"], expected, rtol=1e-5, atol=1e-5)


def test_a_pool_weighs_nothing_for_itself(scores):
    found, _ = measured(scores, ImportanceResampling(target=str(scores)))
    np.testing.assert_allclose(found["dsir_log_weight"], 0, atol=1e-6)


def test_a_target_with_other_texts_is_measured_anew(scores, target, tmp_path):
    _, before = measured(scores, ImportanceResampling(target=target))
    (tmp_path / "target.txt").write_text("another")
    _, after = measured(scores, ImportanceResampling(target=target))
    assert before.settings == after.settings
    assert before.stamp != after.stamp


def test_a_missing_target_is_refused(scores, tmp_path):
    with pytest.raises(InputError, match="cannot read texts in"):
        measured(scores, ImportanceResampling(target=str(tmp_path / "none")))


def test_no_buckets_are_refused():
    with pytest.raises(UsageError, match="`buckets` is 0"):
        ImportanceResampling(target="x", buckets=0)
