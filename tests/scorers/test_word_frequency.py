import re
from collections import Counter

import numpy as np
import pytest

from clipdre.errors import UsageError
from clipdre.scorers.word_frequency import WordFrequency
from tests.scorers.captions import recaptioned
from tests.scorers.measuring import measured

CAPTIONS = (
    "A red car",
    "a Dog's dinner, on a_table",
    "",
    "a" + " the" * 40,
    "rouge 12",
    "...",
    "a",
)


def naive(captions, t, least, most):
    """Word by word, from the definition."""
    words = [re.findall(r"[a-z0-9]+(?:'[a-z]+)?", caption.lower()) for caption in captions]
    counts = Counter(word for own in words for word in own)
    counts = {word: count for word, count in counts.items() if count >= least}
    total = sum(counts.values())
    values = []
    for own in words:
        product = 1.0
        for word in own[:most]:
            p = 1 - (t / (counts[word] / total)) ** 0.5 if word in counts else 1.0
            product *= p if p >= 0 else 1.0
        values.append((1 - product) / len(own[:most]) if own else 0.0)
    return np.array(values), len(counts)


@pytest.mark.parametrize("t", [1e-7, 0.01, 0.3])
@pytest.mark.parametrize("least", [1, 5])
def test_it_is_the_value_of_the_definition(scores, t, least):
    captions = recaptioned(scores, CAPTIONS, first=["seen once", "cafe seen", "cafe"])
    found, record = measured(scores, WordFrequency(threshold=t, least=least))
    expected, known = naive(captions, t, least, 30)
    np.testing.assert_allclose(found["wfpp"], expected, rtol=1e-5, atol=1e-7)
    assert record.figures["wfpp_words"] == known


def test_the_published_example(scores):
    """Two words of share 0.5 each, t = 0.1: "a cat" 0.347, "a" 0.447."""
    recaptioned(scores, ("a cat",), first=["a", "cat"])
    found, _ = measured(scores, WordFrequency(threshold=0.1))
    assert found["wfpp"][:3] == pytest.approx([0.447, 0.447, 0.347], abs=5e-4)


def test_a_pool_without_known_words_has_no_rare_ones(scores):
    found, _ = measured(scores, WordFrequency(least=10**6))
    assert not found["wfpp"].any()


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"most_words": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"`{next(iter(wrong))}` is"):
        WordFrequency(**wrong)
