"""MetaCLIP: balance captions over the entries that they contain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, pairwise
from typing import Any, ClassVar

import ahocorasick
import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.core.counts import (
    count_codes,
    count_texts,
    counts_of_texts,
    merge_codes,
    merge_texts,
)
from clipdre.errors import InputError, ScoresError, UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting

PUNCTUATION = ",.;:?!`"
MARK, SPACE = re.compile(f"([{PUNCTUATION}])"), re.compile(r"[\t\n\r]")
WITH_SPACES = r" \1 "
ENGLISH = "en"
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MetaClip:
    """Chance with which MetaCLIP keeps a caption: ``1 - prod(1 - min(1, t / count))``.

    The product is over the entries that the caption contains as whole words, case kept;
    ``count`` is the number of captions with that entry. So of the captions that have a frequent
    entry and no rarer one, about t are kept, and captions without any entry go. Draw with
    ``--where 'draw(metaclip_probability)'``, as recipe `metaclip` does.

    It helps on raw web pools, where a few topics and boilerplate make up most captions. It knows
    nothing about images, so it says nothing about whether a caption is true. The published t of
    20,000 is for 400 million pairs and drops nothing from a small pool: choose a `tail-share`
    there. Words of languages without spaces are not found.
    """

    name: ClassVar = "metaclip"
    title: ClassVar = "Balance over the words and phrases in captions"
    source: ClassVar = "Xu et al. (arXiv 2309.16671); MetaCLIP 2 (arXiv 2507.22062)"
    cost: ClassVar = "two passes over captions"
    version: ClassVar = 1
    example: ClassVar = {"tail_share": 0.06}

    entries: str = setting(
        "Words and phrases: a text file with one per line, or a .json list. Without it, frequent "
        "words and pairs of words of the pool's captions.",
        default="",
    )
    word_count: int = setting("Least occurrences of a word that becomes an entry.", default=20)
    bigram_pmi: float = setting(
        "Least pointwise mutual information, in nats, of a pair of words that becomes an entry; "
        "it also occurs that often.",
        default=3.0,
    )
    threshold: float = setting(
        "Captions with an entry (t) up to which all are kept.", default=20_000.0
    )
    tail_share: float = setting(
        "Set t so that entries with fewer captions have this share of all matches, such as 0.06; "
        "0: use the threshold.",
        default=0.0,
    )
    language: str = setting(
        "Column of languages; with a tail share, each gets its own t if there is such a column.",
        default="language",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.tail_share < 1:
            raise UsageError(f"`tail_share` is {self.tail_share}", "use a share such as 0.06")
        if not self.threshold > 0:
            raise UsageError(f"`threshold` is {self.threshold}", "use a number above 0")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (
            Column("metaclip_probability", "", "chance that balancing keeps the caption"),
            Column("metaclip_entries", "entries", "number of entries in the caption"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Find the entries, count the captions with each, and set the thresholds."""
        texts = pool.texts(self.entries) if self.entries else self._frequent(pool)
        entries = sorted({padded(text.strip()) for text in texts if text.strip()})
        if not entries:
            raise InputError(f"{self.entries} has no entries", "put one on each line")
        learned = {
            "entries": np.frombuffer("\n".join(entries).encode(), np.uint8),
            "languages": np.array(self._languages(pool)),
        }
        counted = pool.reduce("matches", partial(self._counted, learned=learned), merge_codes)
        codes, counts = counted["codes"], counted["counts"]
        kinds = codes // len(entries)
        thresholds = np.array(
            [self._threshold(counts[kinds == n]) for n in range(len(learned["languages"]))]
        )
        shown = int((learned["languages"] == ENGLISH).argmax())
        own, t = counts[kinds == shown], thresholds[shown]
        return {
            **learned,
            "codes": codes,
            "keep": np.minimum(1.0, thresholds[kinds] / counts),
            "metaclip_vocabulary": np.array(len(entries)),
            "metaclip_threshold": t,
            "metaclip_tail_share": own[own < t].sum() / max(1, own.sum()),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        row, codes = self._matches(rows, learned)
        keep = learned["keep"][np.searchsorted(learned["codes"], codes)]
        with np.errstate(divide="ignore"):  # an entry that is always kept
            dropped = np.bincount(row, np.log1p(-keep), len(rows))
        return {
            "metaclip_probability": 0.0 - np.expm1(dropped),
            "metaclip_entries": np.bincount(row, minlength=len(rows)),
        }

    def _frequent(self, pool: Pool) -> list[str]:
        """Return the pool's frequent words, and its frequent and telling pairs of words."""
        counted = counts_of_texts(pool.reduce("words", _count_words, merge_texts))
        total = sum(counted.values())
        words = [word for word, count in counted.items() if count >= self.word_count]
        if not words:
            raise ScoresError(
                f"no word occurs {self.word_count} times in the captions",
                "pass a smaller `word_count`, or `entries`",
            )
        places = {word: n for n, word in enumerate(words)}
        pairs = pool.reduce("pairs", partial(_count_pairs, places=places), merge_codes)
        first, second = np.divmod(pairs["codes"], len(words))
        counts = np.array([counted[word] for word in words])
        pmi = np.log(pairs["counts"] * (total / counts[first] / counts[second]))
        telling = (pairs["counts"] >= self.word_count) & (pmi >= self.bigram_pmi)
        found = zip(first[telling].tolist(), second[telling].tolist(), strict=True)
        return [*words, *(f"{words[a]} {words[b]}" for a, b in found)]

    def _languages(self, pool: Pool) -> list[str]:
        """Return the languages that have a threshold of their own; a single empty one without."""
        if not self.tail_share or not pool.has_column(self.language):
            return [""]
        count = partial(_count_languages, column=self.language)
        return list(counts_of_texts(pool.reduce("languages", count, merge_texts)))

    def _threshold(self, counts: Codes) -> float:
        """Return t; with a tail share, the largest below which counts have no more of it."""
        if not self.tail_share or not len(counts):
            return self.threshold
        ordered = np.sort(counts)
        sums = np.cumsum(ordered)
        return float(ordered[np.searchsorted(sums, self.tail_share * sums[-1], side="right")])

    def _counted(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        return count_codes(self._matches(rows, learned)[1])

    def _matches(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> tuple[Codes, Codes]:
        """Return the row of each match, ascending, and its code: language and entry."""
        automaton = _automaton(learned["entries"].tobytes())
        found = [
            sorted({entry for _, entry in automaton.iter(padded(caption))})
            for caption in rows.captions
        ]
        sizes = [len(entries) for entries in found]
        row = np.repeat(np.arange(len(found)), sizes)
        entries = np.fromiter(chain.from_iterable(found), np.int64, len(row))
        languages = learned["languages"].tolist()
        if len(languages) == 1:
            return row, entries
        number = {language: n for n, language in enumerate(languages)}
        of_rows = np.array([number[name] for name in _languages_of(rows, self.language)])
        return row, of_rows[row] * len(automaton) + entries


def padded(text: str) -> str:
    """Return a text with spaces around it and its punctuation, so that words are found whole."""
    return f" {MARK.sub(WITH_SPACES, SPACE.sub(' ', text))} "


@lru_cache(maxsize=1)
def _automaton(entries: bytes) -> Any:
    automaton = ahocorasick.Automaton()
    for number, entry in enumerate(entries.decode().split("\n")):
        automaton.add_word(entry, number)
    automaton.make_automaton()
    return automaton


def _is_word(part: str) -> bool:
    return bool(part) and part not in PUNCTUATION


def _count_words(rows: Rows) -> Arrays:
    parts = (part for caption in rows.captions for part in padded(caption).split(" "))
    return count_texts(filter(_is_word, parts))


def _count_pairs(rows: Rows, places: Mapping[str, int]) -> Arrays:
    """Count pairs of adjacent words that have places: the first's, times all, and the second's."""
    codes = [
        places[first] * len(places) + places[second]
        for caption in rows.captions
        for first, second in pairwise(padded(caption).split(" "))
        if first in places and second in places
    ]
    return count_codes(np.array(codes, np.int64))


def _languages_of(rows: Rows, column: str) -> list[str]:
    return ["" if value is None else str(value) for value in rows.column(column).tolist()]


def _count_languages(rows: Rows, column: str) -> Arrays:
    return count_texts(_languages_of(rows, column))
