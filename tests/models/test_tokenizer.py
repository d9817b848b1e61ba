import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from clipdre.config import TINY_MODEL, EncodeConfig
from clipdre.models.load import load_encoder
from clipdre.models.tokenizer import END, SHORT, bounded, merged

REFERENCE = SimpleTokenizer()
PIECES = sorted({token.removesuffix(END) for token in REFERENCE.bpe_ranks for token in token})
# Real pieces, letters that merge in many ways, and repetitions.
words = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join),
    st.text("aehnt", min_size=1, max_size=150),
    st.text("!é画", min_size=1, max_size=60),
    st.builds(str.__mul__, st.sampled_from(["a", "!", "he", "ing"]), st.integers(1, 150)),
)


@settings(max_examples=400)
@given(words)
def test_merges_are_those_of_open_clip(word):
    encoded = "".join(REFERENCE.byte_encoder[byte] for byte in word.encode())
    symbols = [*encoded[:-1], encoded[-1] + END]
    assert " ".join(merged(symbols, REFERENCE.bpe_ranks)) == REFERENCE.bpe(encoded)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.permutations(range(20)))
def test_merges_of_any_ranks_are_those_of_open_clip(letters, order):
    """Also where a pair that appears late has an early rank, which trained ranks hardly have."""
    symbols = ["abcd"[n] for n in letters]
    pairs = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("a", "a"), ("aa", "a"), ("c", "d")]
    pairs += [("abc", "d"), ("ab", "ab"), ("d", "abc"), ("abc", "abc"), ("b", "b"), ("aa", "b")]
    pairs += [("c", "a"), ("bc", "bc"), ("a", "ab"), ("d", "d" + END), ("d", "a"), ("b", "ca")]
    ranks = dict(zip(pairs, order, strict=False))
    tokenizer = SimpleTokenizer()
    tokenizer.bpe_ranks = ranks
    expected = tokenizer.bpe("".join(symbols)).split(" ")
    assert merged([*symbols[:-1], symbols[-1] + END], ranks) == expected


@pytest.mark.parametrize(
    "caption", ["x" * 500, "a photo " + "of" * 200 + " dogs", "a red dog", "é!" * 90]
)
def test_tokens_are_those_of_open_clip(caption):
    assert torch.equal(bounded(SimpleTokenizer())([caption]), REFERENCE([caption]))


def test_long_words_do_not_reach_open_clip(monkeypatch):
    """Its own encoding takes time that grows with the square of their length."""
    asked = []
    bpe = SimpleTokenizer.bpe

    def asking(self, word):
        asked.append(len(word))
        return bpe(self, word)

    monkeypatch.setattr(SimpleTokenizer, "bpe", asking)
    encoder = load_encoder(EncodeConfig(model=TINY_MODEL, device="cpu"))
    encoder.tokenize("red " + "x" * 60_000)
    assert 3 in asked
    assert max(asked) <= SHORT


@pytest.mark.parametrize("caption", ["", " ", "\0", "\ufeff", "&nbsp;", "<end_of_text>" * 90])
def test_captions_of_marks_alone_are_empty(caption):
    encoder = load_encoder(EncodeConfig(model=TINY_MODEL, device="cpu"))
    assert encoder.is_empty(encoder.tokenize(caption))
    assert not encoder.is_empty(encoder.tokenize(f"a {caption}"))
    assert not encoder.is_empty(encoder.tokenize("!"))
