"""Similarity without the digits of the caption."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.core.density_ratio import similarity
from clipdre.core.modality import Modality
from clipdre.errors import ScoresError
from clipdre.scorers.base import Arrays, Pool, Rows, setting

DIGITS = re.compile(r"\d+")
CAPTIONS_AT_ONCE = 256
SIMILARITY, RATIO = "similarity_masked", "log_ratio_image_masked"
BEFORE = "log_ratio_image"


@dataclass(frozen=True)
class DigitsMasked:
    """Similarity of the image to its caption with each number replaced, encoded again.

    Captions without digits keep their similarity, and cost nothing. The published rule keeps the
    40 % with the highest value. ``log_ratio_image_masked`` is `log_ratio_image` for that caption:
    what the image says about it, against the pool's captions as they are. The other direction
    would need each new caption compared with the whole pool.

    It helps where images show the numbers of their captions (dates, prices, codes, pages): CLIP
    reads them, so such a pair has a high similarity whatever else it shows. It misleads where
    numbers are what the caption says, as in counts. A low ``similarity - similarity_masked`` says
    nothing either way; a high one says that the match was the number.
    """

    name: ClassVar = "digits-masked"
    title: ClassVar = "Similarity without the digits of the caption"
    source: ClassVar = "Devil in the Number (arXiv 2309.13770)"
    cost: ClassVar = "encodes captions with digits again"
    version: ClassVar = 2
    example: ClassVar[Mapping[str, Any]] = {}

    mask: str = setting("Text that replaces each number of a caption.", default="")

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (
            Column(SIMILARITY, "cosine", "similarity to the caption without its digits", "high"),
            Column(RATIO, "nats", f"{BEFORE} of the caption without its digits", "high"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Learn the logit scale; load the model, so that a missing one stops the run at once."""
        _ = pool.encoder
        if not pool.has_column(BEFORE):
            raise ScoresError(f"there is no column {BEFORE}", "score the pool with it first")
        return {"scale": np.array([pool.logit_scale])}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        captions, images = rows.captions, rows.vectors(Modality.IMAGE)
        before = similarity(images, rows.vectors(Modality.TEXT))
        found = before.clone()
        numbered = [n for n, caption in enumerate(captions) if DIGITS.search(caption)]
        for start in range(0, len(numbered), CAPTIONS_AT_ONCE):
            part = numbered[start : start + CAPTIONS_AT_ONCE]
            masked = [DIGITS.sub(lambda _: self.mask, captions[n]) for n in part]
            tokens = [rows.encoder.tokenize(caption) for caption in masked]
            found[part] = similarity(images[part], rows.encoder.encode_texts(tokens).cpu())
        gained = learned["scale"] * (found - before).double().numpy()
        return {SIMILARITY: found.numpy(), RATIO: rows.column(BEFORE) + gained}
