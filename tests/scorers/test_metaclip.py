import json

import numpy as np
import pytest

from clipdre.errors import InputError, ScoresError, UsageError
from clipdre.scorers.metaclip import MetaClip, padded
from tests.scorers.captions import add_column, recaptioned
from tests.scorers.measuring import measured

CAPTIONS = ("a red car", "a red car, parked", "the Red car.", "no entry", "", "bored cars")


def naive(captions, entries, thresholds, languages=None):
    """Caption by caption and entry by entry, from the definition."""
    languages = languages or [""] * len(captions)
    spaced = [padded(caption) for caption in captions]
    found = [[e for e in entries if padded(e) in text] for text in spaced]
    counts = {
        (language, e): sum(
            e in f for f, own in zip(found, languages, strict=True) if own == language
        )
        for e in entries
        for language in set(languages)
    }
    chances = [
        1 - np.prod([1 - min(1, thresholds[own] / counts[own, e]) for e in f])
        for f, own in zip(found, languages, strict=True)
    ]
    return np.array(chances), [len(f) for f in found], counts


def naive_threshold(counts, share):
    """Try every count as a threshold."""
    fits = [t for t in counts if sum(c for c in counts if c < t) <= share * sum(counts)]
    return max(fits)


@pytest.fixture
def entries(tmp_path):
    (tmp_path / "entries.txt").write_text("car\nred\n\nred car\nthe Red\ncar, parked\nabsent\n")
    return tmp_path / "entries.txt", ["car", "red", "red car", "the Red", "car, parked", "absent"]


@pytest.mark.parametrize("t", [1.5, 40.0, 1e6])
def test_it_is_the_chance_of_the_definition(scores, entries, t):
    captions = recaptioned(scores, CAPTIONS)
    path, words = entries
    found, record = measured(scores, MetaClip(entries=str(path), threshold=t))
    chances, numbers, _ = naive(captions, words, {"": t})
    np.testing.assert_allclose(found["metaclip_probability"], chances, atol=1e-6)
    np.testing.assert_array_equal(found["metaclip_entries"], numbers)
    assert record.figures["metaclip_vocabulary"] == 6


def test_whole_words_are_found_with_their_case_and_whatever_punctuation(scores, entries):
    recaptioned(scores, CAPTIONS)
    found, _ = measured(scores, MetaClip(entries=str(entries[0])))
    assert found["metaclip_entries"][: len(CAPTIONS)].tolist() == [3, 4, 2, 0, 0, 0]


def test_an_entry_of_four_captions_is_kept_half_the_time_at_a_threshold_of_two(scores, tmp_path):
    (tmp_path / "e").write_text("first\nsecond")
    captions = recaptioned(scores, ("x",), first=4 * ["first"] + ["second"])
    found, _ = measured(scores, MetaClip(entries=str(tmp_path / "e"), threshold=2.0))
    np.testing.assert_allclose(found["metaclip_probability"][:5], [0.5] * 4 + [1.0])
    assert not found["metaclip_probability"][5:].any()
    assert len(captions) == 300


def test_a_json_list_is_a_vocabulary(scores, tmp_path, entries):
    recaptioned(scores, CAPTIONS)
    path, words = entries
    (tmp_path / "e.json").write_text(json.dumps(words))
    lines, _ = measured(scores, MetaClip(entries=str(path), threshold=9.0))
    listed, _ = measured(scores, MetaClip(entries=str(tmp_path / "e.json"), threshold=9.0))
    np.testing.assert_array_equal(lines["metaclip_probability"], listed["metaclip_probability"])


@pytest.mark.parametrize("share", [0.06, 0.3, 0.9])
def test_a_tail_share_sets_the_threshold_of_each_language(scores, entries, share):
    captions = recaptioned(scores, CAPTIONS)
    languages = [("en", "fr", None)[n * n % 7 % 3] for n in range(300)]
    path, words = entries
    scorer = MetaClip(entries=str(path), tail_share=share, threshold=3.0)
    _, one = measured(scores, scorer)
    add_column(scores, "language", languages)
    found, record = measured(scores, scorer)
    names = [name or "" for name in languages]
    _, _, counts = naive(captions, words, dict.fromkeys(names, 1), names)
    thresholds = {
        name: naive_threshold([c for (own, _), c in counts.items() if own == name and c], share)
        for name in set(names)
    }
    chances, _, _ = naive(captions, words, thresholds, names)
    np.testing.assert_allclose(found["metaclip_probability"], chances, atol=1e-6)
    assert record.figures["metaclip_threshold"] == thresholds["en"]
    assert record.figures["metaclip_tail_share"] <= share
    # Without the column, all captions share one threshold; that it appeared was noticed.
    _, _, counts = naive(captions, words, {"": 1})
    assert one.figures["metaclip_threshold"] == naive_threshold(
        [c for c in counts.values() if c], share
    )
    assert one.stamp != record.stamp


def test_entries_are_the_frequent_words_and_telling_pairs_of_the_pool(scores):
    captions = recaptioned(scores, ("red car", "red car, the red", "the car", "red hat", "hat the"))
    scorer = MetaClip(word_count=100, bigram_pmi=0.1, threshold=50.0)
    found, record = measured(scores, scorer)
    # 300 captions: red 240, car 180, the 180, hat 120; 720 words, "red car" 120, "the red" 60.
    words = ["red", "car", "the", "hat", "red car"]
    assert np.log(120 * 720 / 240 / 180) > 0.1
    chances, numbers, _ = naive(captions, words, {"": 50.0})
    assert record.figures["metaclip_vocabulary"] == len(words)
    np.testing.assert_array_equal(found["metaclip_entries"], numbers)
    np.testing.assert_allclose(found["metaclip_probability"], chances, atol=1e-6)


def test_a_pool_without_frequent_words_is_refused(scores):
    with pytest.raises(ScoresError, match="no word occurs 1000 times"):
        measured(scores, MetaClip(word_count=1000))


@pytest.mark.parametrize("wrong", [{"tail_share": 1.0}, {"tail_share": -0.1}, {"threshold": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=f"`{next(iter(wrong))}` is"):
        MetaClip(**wrong)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.txt", b"\xff\xfe", "cannot read texts in"),
        ("e.json", b'{"a": 1}', "cannot read texts in"),
        ("e.json", b'["a", 1]', "cannot read texts in"),
        ("e.txt", b"\n\n", "has no texts"),
        ("e.txt", b" \n\t\n", "has no entries"),
    ],
)
def test_unusable_entries_are_refused_with_a_cure(scores, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        measured(scores, MetaClip(entries=str(tmp_path / name)))
    assert caught.value.cure
