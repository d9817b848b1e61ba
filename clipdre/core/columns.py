"""What a column is: the data from which help, documents and reports are generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A column of a score folder.

    Attributes
    ----------
    name : str
    unit : str
        ``nats``, ``cosine``, ...; empty for text.
    meaning : str
        One phrase for people who choose what to rank by.
    better : {"high", "low", "neither"}
        Which end a curator usually keeps.
    """

    name: str
    unit: str
    meaning: str
    better: Literal["high", "low", "neither"] = "neither"
