"""A scorer in a package of its own: the length of the caption."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from clipdre.core.columns import Column
from clipdre.scorers.base import Arrays, Pool, Rows, setting


@dataclass(frozen=True)
class CaptionLength:
    """Length of the caption, up to a limit."""

    name: ClassVar = "caption-length"
    title: ClassVar = "Length of the caption in words"
    source: ClassVar = "an example"
    version: ClassVar = 1
    example: ClassVar = {"most": 20}

    most: int = setting("Longer captions count as this many words.", default=77)

    def columns(self) -> tuple[Column, ...]:
        return (Column("caption_words", "words", "number of words in the caption", "high"),)

    def fit(self, pool: Pool) -> Arrays:
        return {}  # nothing is learned from the pool

    def score(self, rows: Rows, learned: Arrays) -> Arrays:
        words = np.array([len(caption.split()) for caption in rows.captions])
        return {"caption_words": np.minimum(words, self.most)}
