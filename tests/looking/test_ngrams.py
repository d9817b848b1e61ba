import numpy as np
import pytest

from clipdre.looking.ngrams import PRIOR, RARE, Words

CAPTIONS = ["A red circle", "red circle, red", "blue square", "don't", "blue circle"] * RARE
VALUES = np.tile([4.0, 5.0, 1.0, np.nan, 2.0], RARE)


def test_words_count_once_per_caption_and_pairs_of_words_are_words():
    words = Words([*CAPTIONS, "rare", "x" * 50] + ["x" * 50] * RARE)
    counts = dict(zip(words.texts, (words.counts / RARE).tolist(), strict=True))
    assert counts["red"] == counts["red circle"] == 2
    assert counts["circle"] == 3
    assert counts["circle red"] == counts["a red"] == counts["don't"] == 1
    assert not {"rare", "x" * 50} & set(counts)


def test_words_with_a_high_score_are_those_whose_mean_is_far_above_chance():
    ends = Words(CAPTIONS).by_score(VALUES)
    finite = VALUES[np.isfinite(VALUES)]
    red = next(word for word in ends.high if word.text == "red")
    assert red.value == 4.5
    assert red.captions == 2 * RARE
    expected = (4.5 - finite.mean()) / (finite.std() / np.sqrt(2 * RARE))
    assert red.z == pytest.approx(expected)
    assert {"blue", "square"} <= {word.text for word in ends.low}
    assert [w.z for w in ends.high] == sorted((w.z for w in ends.high), reverse=True)
    assert not {"don't"} & {w.text for w in (*ends.high, *ends.low)}


def test_log_odds_have_the_pool_as_prior():
    times = 20 * RARE
    kept = np.tile([True, True, False, False, False], times)
    ends = Words(CAPTIONS * 20).by_kept(kept)
    red = next(word for word in ends.high if word.text == "red")
    prior = 2 / 5 * PRIOR
    inside, outside = 2 * times + prior, prior
    odds = np.log(inside / (2 * times + PRIOR - inside)) - np.log(
        outside / (3 * times + PRIOR - outside)
    )
    assert red.value == pytest.approx(odds)
    assert red.z == pytest.approx(odds / np.sqrt(1 / inside + 1 / outside))
    assert "blue" in {word.text for word in ends.low}


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_to_tell_apart(kept):
    words = Words(CAPTIONS)
    for ends in (
        words.by_kept(np.full(len(CAPTIONS), kept)),
        words.by_score(np.ones(len(CAPTIONS))),
    ):
        assert ends.high == ends.low == []
    same = Words(["every caption"] * 50)
    assert not any(same.by_kept(np.arange(50) < 25))
    empty = Words([])
    assert empty.by_kept(np.empty(0, np.bool_)).high == empty.by_score(np.empty(0)).high == []
