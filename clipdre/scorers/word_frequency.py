"""Word frequency: captions that consist of frequent words say little."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.core.counts import count_texts, counts_of_texts, merge_texts
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting

WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


@dataclass(frozen=True)
class WordFrequency:
    """Chance that a word of the caption is kept, per word: ``(1 - prod(P)) / m``.

    ``P = 1 - sqrt(t / f)`` is the chance with which word2vec drops a word that makes up a share f
    of all words, in lower case. The product is over the caption's first m words. A word that is too
    rare to judge counts as dropped. The published rule keeps the highest 50 to 90 %.

    It helps to make a pool smaller at little cost: captions of frequent words alone go first. It
    prefers short captions, because it divides by their length, and knows nothing about images. On
    small pools f is far above the published t of 1e-7, and all values are small; their order still
    counts.
    """

    name: ClassVar = "word-frequency"
    title: ClassVar = "Rarity of the words in captions"
    source: ClassVar = "Liang and Larson, WFPP (arXiv 2410.10879)"
    cost: ClassVar = "two passes over captions"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {}

    threshold: float = setting("Share t of a word: rarer ones are never dropped.", default=1e-7)
    least: int = setting("Words seen less often count as unknown.", default=5)
    most_words: int = setting("First words of a caption that count.", default=30)

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("most_words", self.most_words)):
            if not value > 0:
                raise UsageError(f"`{name}` is {value}", "use a number above 0")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (Column("wfpp", "", "chance that a word of the caption is kept, per word", "high"),)

    def fit(self, pool: Pool) -> Arrays:
        """Count the words of all captions."""
        counted = counts_of_texts(pool.reduce("words", _count_words, merge_texts))
        known = {word: count for word, count in counted.items() if count >= self.least}
        counts = np.array(list(known.values()), np.float64)
        dropped = 1 - np.sqrt(self.threshold * counts.sum() / counts)
        return {
            "words": np.frombuffer("\n".join(known).encode(), np.uint8),
            "dropped": np.where(dropped < 0, 1.0, dropped),
            "wfpp_words": np.array(len(known)),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        known = _dropped(learned["words"].tobytes(), learned["dropped"].tobytes())
        return {"wfpp": np.array([self._value(caption, known) for caption in rows.captions])}

    def _value(self, caption: str, known: Mapping[str, float]) -> float:
        words = words_of(caption)[: self.most_words]
        if not words:
            return 0.0
        return (1 - math.prod(known.get(word, 1.0) for word in words)) / len(words)


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in lower case."""
    return WORD.findall(caption.lower())


def _count_words(rows: Rows) -> Arrays:
    return count_texts(word for caption in rows.captions for word in words_of(caption))


@lru_cache(maxsize=1)
def _dropped(words: bytes, dropped: bytes) -> dict[str, float]:
    """Return the chance with which each known word is dropped."""
    return dict(zip(words.decode().split("\n"), np.frombuffer(dropped).tolist(), strict=False))
