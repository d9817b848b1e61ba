"""DSIR: how much more likely a caption's words are in a target's captions than in the pool's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import added

WORD = re.compile(r"\w+|[^\w\s]+")
# What the published code adds to each share before the logarithm.
SMALL = 1e-8
TEXTS_AT_ONCE = 8192


@dataclass(frozen=True)
class ImportanceResampling:
    """Log importance weight of the caption: ``sum(log(p_target / p_pool))`` over its n-grams.

    n-grams are the words and pairs of words in lower case, hashed to buckets as in the published
    code; p is a bucket's share of all n-grams in the target's captions, or the pool's. Rows drawn
    by this weight have captions as the target's.

    It helps to make a pool resemble a target of which only texts are needed, such as the captions
    of an evaluation set. Sums grow with the length of the caption, and an n-gram that the target
    lacks weighs much, so long captions rank low; a small target has few n-grams: use at least
    some thousand captions. It knows nothing about images.
    """

    name: ClassVar = "importance-resampling"
    title: ClassVar = "Importance weight of the caption for a target's captions"
    source: ClassVar = "Xie et al., DSIR, NeurIPS 2023 (arXiv 2302.03169)"
    cost: ClassVar = "two passes over captions"
    version: ClassVar = 1
    example: ClassVar = {"target": "SCORES"}  # any score folder

    target: str = setting(
        "The target's captions: a text file with one per line, a .json list, or a score folder."
    )
    buckets: int = setting("Buckets that n-grams are hashed to.", default=10_000)

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise UsageError(f"`buckets` is {self.buckets}", "use at least 1")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        meaning = "log importance weight of the caption for the target's captions"
        return (Column("dsir_log_weight", "nats", meaning, "high"),)

    def fit(self, pool: Pool) -> Arrays:
        """Count the buckets of the target and of the pool."""
        texts = pool.texts(self.target)
        parts = iter(lambda: list(islice(texts, TEXTS_AT_ONCE)), [])
        target = np.sum([self._counted(part) for part in parts], axis=0)
        counts = pool.reduce("n-grams", self._count, added)["counts"]
        return {"log_ratio": _log_shares(target) - _log_shares(counts)}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        row, buckets = self._buckets(rows.captions)
        weights = np.bincount(row, learned["log_ratio"][buckets], len(rows))
        return {"dsir_log_weight": weights}

    def _count(self, rows: Rows) -> Arrays:
        return {"counts": self._counted(rows.captions)}

    def _counted(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        return np.bincount(self._buckets(texts)[1], minlength=self.buckets)

    def _buckets(self, texts: Iterable[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the row of each n-gram, ascending, and its bucket."""
        grams = [_n_grams(text) for text in texts]
        row = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
        bucket = {gram: self._bucket(gram) for gram in set(chain.from_iterable(grams))}
        found = (bucket[gram] for gram in chain.from_iterable(grams))
        return row, np.fromiter(found, np.int64, len(row))

    def _bucket(self, gram: str) -> int:
        return int.from_bytes(hashlib.sha256(gram.encode()).digest(), "big") % self.buckets


def _n_grams(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [*words, *map(" ".join, pairwise(words))]


def _log_shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = np.log(counts / max(1, counts.sum()) + SMALL)
    return shares
