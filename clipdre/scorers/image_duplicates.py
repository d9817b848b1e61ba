"""Groups of pairs that show the same image, whatever their captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.core.ranks import ranks_in_groups
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import of_rows

GROUP, RANK = "image_group", "image_rank"


@dataclass(frozen=True)
class ImageDuplicates:
    """Groups of pairs whose images are alike, and the best pair of each by `log_ratio`.

    `clipdre score` itself groups pairs that are alike on both sides (`duplicate_group`,
    `--distinct`). This one ignores captions: the same picture from several pages, each with a text
    of its own, is one group, and `--where "image_rank = 1"` keeps the caption that fits it best.
    It misleads for pools with several good captions per image, which would lose all but one, and
    for models whose images of a kind all have high cosines (logos, documents, product shots): look
    at some groups before choosing `--threshold`. Images that are alike to a common third one are of
    one group, so a group may hold images that are not alike themselves.
    """

    name: ClassVar = "image-duplicates"
    title: ClassVar = "Which pairs show the same image, and which of them is best"
    source: ClassVar = "clipdre, as near-duplicates in `clipdre score`"
    cost: ClassVar = "neighbours of all images"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {"threshold": 0.95}

    threshold: float = setting("Cosine above which two images are the same.", default=0.95)

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        return (
            Column(GROUP, "", "key hash that pairs of one image share; a lone pair's own"),
            Column(RANK, "", "place in the group by log_ratio; 1 is the best", "low"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Group the pool's images, and rank the pairs of each group."""
        if not 0 < self.threshold <= 1:
            raise UsageError(
                f"`threshold` {self.threshold} is not a cosine of two images that are the same",
                "use a number in (0, 1]",
            )
        hashes = pool.column("key_hash")
        leaders = pool.alike(Modality.IMAGE, self.threshold)
        sizes = np.bincount(leaders)
        return {
            GROUP: hashes[leaders],
            RANK: ranks_in_groups(leaders, pool.column("log_ratio"), hashes),
            "image_groups": (sizes > 0).sum(),
            "images_grouped": sizes[sizes > 1].sum(),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        return {name: of_rows(learned[name], rows) for name in (GROUP, RANK)}
