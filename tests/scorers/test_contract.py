"""Every scorer of the registry keeps the contract, and a scorer that breaks it is caught."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from clipdre.core.columns import Column
from clipdre.scorers.base import setting
from clipdre.scorers.registry import scorers
from clipdre.testing import check_scorer


@pytest.mark.parametrize("name", list(scorers()))
def test_scorer_keeps_the_contract(name, scored, tmp_path):
    check_scorer(scorers()[name], scored[0], tmp_path)


@dataclass(frozen=True)
class Length:
    """A good scorer to break."""

    name: ClassVar = "length"
    title: ClassVar = "Length of the caption"
    source: ClassVar = "this test"
    version: ClassVar = 1
    example: ClassVar = {}

    def columns(self):
        return (Column("length", "characters", "length of the caption"),)

    def fit(self, pool):
        return {}

    def score(self, rows, learned):
        return {"length": np.array([len(caption) for caption in rows.captions])}


class Unnamed(Length):
    name: ClassVar = "Caption Length"


@dataclass(frozen=True)
class Unexplained(Length):
    unit: str = "characters"


@dataclass(frozen=True)
class Clashing(Length):
    device: str = setting("Device.", default="cpu")


class Gaps(Length):
    def score(self, rows, learned):
        return {"length": np.full(len(rows), np.nan)}


class Neighbourly(Length):
    def score(self, rows, learned):
        return {"length": np.full(len(rows), float(len(rows)))}


class Doubled(Length):
    def columns(self):
        return 2 * super().columns()


class Undeclared(Length):
    def columns(self):
        return tuple(replace(column, meaning="") for column in super().columns())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Unnamed, "not a name"),
        (Unexplained, "no help text"),
        (Clashing, "an option of every scorer"),
        (Gaps, "rows without a value"),
        (Neighbourly, "depends on the tile size"),
        (Doubled, "names repeat"),
        (Undeclared, "no meaning"),
    ],
)
def test_a_breach_of_the_contract_is_reported(broken, message, scored, tmp_path):
    with pytest.raises(AssertionError, match=message):
        check_scorer(broken, scored[0], tmp_path)


def test_the_unbroken_scorer_passes(scored, tmp_path):
    check_scorer(Length, scored[0], tmp_path)
