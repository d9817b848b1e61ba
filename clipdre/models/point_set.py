"""A head that reads a model's features as weighted points, with one explicit vector per sample."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
from torch import Tensor

from clipdre.core import point_set
from clipdre.errors import ModelError
from clipdre.formats.files.storage import regular
from clipdre.formats.folders.records import Record
from clipdre.words import one_line

# Beside the configuration and weights of an open_clip model, in its folder.
FILE = "point_set.json"
MOST = 2**16


class PointSetHead(Record, frozen=True, kw_only=True):
    """Contents of ``point_set.json``: how features become vectors, see `clipdre.core.point_set`.

    Attributes
    ----------
    points : int
        Points per sample.
    frequencies : int
        Random frequencies of the Gaussian; each adds two numbers to a vector.
    seed : int
        What the frequencies are drawn from.
    """

    points: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    frequencies: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 1024
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0

    def __call__(self, features: Tensor) -> Tensor:
        """Return vectors whose inner products are similarities: (n, f) to float32 (n, d)."""
        sets = point_set.point_sets(features, self.points)
        u = _frequencies(sets.points.shape[2], self.frequencies, self.seed)
        return point_set.explicit(sets, u.to(features.device))


@lru_cache(maxsize=4)
def _frequencies(d: int, count: int, seed: int) -> Tensor:
    return point_set.frequencies(d, count, seed)


def find_head(folder: Path) -> PointSetHead | None:
    """Return the point-set head of a model's folder; None if it has none.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return PointSetHead.decoded(regular(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{path} is damaged ({one_line(error)})"
        raise ModelError(problem, "train the model again with scripts/train_tiny.py") from error


def check_features(head: PointSetHead, features: int) -> None:
    """Refuse a head whose points do not share the features evenly, a weight and a direction each.

    Raises
    ------
    ModelError
        If they do not.
    """
    if features % head.points or features // head.points < 2:
        raise ModelError(
            f"{features} features are not {head.points} points, each a weight and a direction",
            f"set points in {FILE} to a divisor of {features}, below it",
        )
