"""Words and pairs of words that go with a score, and with being kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Captions that a word has to be in.
RARE = 5
SHOWN = 12
# What is longer is not a word.
LONGEST = 40
WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}]\w+)*")
# Captions that the prior of the log odds weighs as much as.
PRIOR = 500.0
TINY = 1e-9

Floats = npt.NDArray[np.float64]


class Word(NamedTuple):
    """A word, or two words in a row.

    Attributes
    ----------
    text : str
    captions : int
        How many of those looked at have it.
    value : float
        Mean score of their pairs, or the log odds ratio of being kept.
    z : float
        `value` less what is expected of any word, in standard errors.
    """

    text: str
    captions: int
    value: float
    z: float


class Ends(NamedTuple):
    """The words at both ends of a scale, the farthest first."""

    high: list[Word]
    low: list[Word]


class Words:
    """Which captions have which words.

    Parameters
    ----------
    captions : sequence of str
        Each word counts once per caption.

    Attributes
    ----------
    texts : list of str
        Words and pairs of words that are in `RARE` captions or more.
    counts : float64 array of shape (words,)
        In how many.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        rows, words = [], []
        for row, caption in enumerate(captions):
            found = _grams(caption)
            rows += [row] * len(found)
            words += [numbers.setdefault(text, len(numbers)) for text in found]
        every = np.array(words, np.int64)
        counts = np.bincount(every, minlength=len(numbers))
        frequent = counts >= RARE
        place = np.cumsum(frequent) - 1
        used = frequent[every] if len(every) else np.empty(0, np.bool_)
        self._rows, self._words = np.array(rows, np.int64)[used], place[every[used]]
        self.texts = [text for text, number in numbers.items() if frequent[number]]
        self.counts = counts[frequent].astype(np.float64)

    def by_score(self, values: Floats) -> Ends:
        """Compare the mean value of the captions that have a word with that of all captions.

        Parameters
        ----------
        values : float64 array of shape (captions,)
            Those that are not finite do not count.
        """
        finite = np.isfinite(values)
        if finite.sum() < 2 or not np.ptp(values[finite]) > 0:
            return Ends([], [])
        counts = self._sums(finite.astype(np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self._sums(np.where(finite, values, 0.0)) / counts
            z = (means - values[finite].mean()) / (values[finite].std() / np.sqrt(counts))
        return self._ends(means, np.where(counts >= RARE, z, 0.0))

    def by_kept(self, kept: npt.NDArray[np.bool_]) -> Ends:
        """Compare the kept captions with the others, by log odds with a Dirichlet prior.

        The prior is the pool's own frequencies, with the weight of `PRIOR` captions: rare words do
        not come out on top by chance (Monroe et al., Fightin' Words, Political Analysis 2008).
        """
        inside = self._sums(kept.astype(np.float64))
        prior = self.counts / max(1, len(kept)) * PRIOR
        odds = []
        for count, total in ((inside, kept.sum()), (self.counts - inside, (~kept).sum())):
            rest = np.maximum(
                total + PRIOR - count - prior, TINY
            )  # a word of all captions has none
            odds.append(np.log((count + prior) / rest))
        error = np.sqrt(1 / (inside + prior) + 1 / (self.counts - inside + prior))
        ratio = odds[0] - odds[1]
        return self._ends(ratio, ratio / error)

    def _sums(self, values: Floats) -> Floats:
        sums = np.bincount(self._words, values[self._rows], minlength=len(self.texts))
        return sums.astype(np.float64)  # numpy's are whole numbers if there are none

    def _ends(self, values: Floats, z: Floats) -> Ends:
        order = np.argsort(-z, kind="stable")
        high, low = (
            [n for n in part if sign * z[n] > 2] for part, sign in ((order, 1), (order[::-1], -1))
        )
        shown = [
            [
                Word(self.texts[n], int(self.counts[n]), float(values[n]), float(z[n]))
                for n in part[:SHOWN]
            ]
            for part in (high, low)
        ]
        return Ends(*shown)


def _grams(caption: str) -> dict[str, None]:
    words = [w for w in WORD.findall(caption.lower()) if len(w) <= LONGEST]
    return dict.fromkeys([*words, *(f"{a} {b}" for a, b in pairwise(words))])
