"""Tokenizers of open_clip, with bounded work per caption."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from open_clip.tokenizer import SimpleTokenizer

# Longer words, in bytes, are merged by `merged` instead of by open_clip.
SHORT = 64
END = "</w>"


def bounded(tokenizer: Any) -> Any:
    """Make a tokenizer of open_clip fast for long words; its tokens stay the same.

    The time that its byte-pair encoding takes grows with the square of a word's length: minutes for
    64 kB without a space. Tokenizers of transformers have no such loop.
    """
    if isinstance(tokenizer, SimpleTokenizer):
        tokenizer.bpe = partial(_bpe, tokenizer.bpe, tokenizer.bpe_ranks)
    return tokenizer


def _bpe(bpe: Any, ranks: Mapping[tuple[str, str], int], word: str) -> str:
    if len(word) <= SHORT:
        short: str = bpe(word)
        return short
    return " ".join(merged([*word[:-1], word[-1] + END], ranks))


def merged(symbols: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merge neighbours pair by pair, lowest rank first, as byte-pair encoding does.

    All places of a pair are merged from left to right before the next pair is chosen. Pairs wait in
    a heap, and each merge looks at its own two neighbours only: n log n steps for n symbols.
    """
    word = list(symbols)
    before, after = list(range(-1, len(word) - 1)), list(range(1, len(word) + 1))
    places: dict[tuple[str, str], list[int]] = {}
    waiting: list[tuple[int, tuple[str, str]]] = []

    def note(place: int) -> None:
        """Note the pair that begins at a place."""
        if place < 0 or after[place] == len(word):
            return
        pair = word[place], word[after[place]]
        rank = ranks.get(pair)
        if rank is None:
            return
        if pair not in places:
            places[pair] = []
            heapq.heappush(waiting, (rank, pair))
        places[pair].append(place)

    for place in range(len(word)):
        note(place)
    while waiting:
        pair = heapq.heappop(waiting)[1]
        for place in sorted(places.pop(pair)):
            second = after[place]
            # An earlier merge may have taken either symbol.
            if word[place] != pair[0] or second == len(word) or word[second] != pair[1]:
                continue
            word[place], word[second] = "".join(pair), ""
            after[place] = after[second]
            if after[place] < len(word):
                before[after[place]] = place
            note(before[place])
            note(place)
    return [symbol for symbol in word if symbol]
