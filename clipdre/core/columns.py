"""What a column is: the data from which help, documents and reports are generated."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
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


def closest(name: str, known: Sequence[str], count: int = 3) -> str:
    """Return a hint for a name that is not `known`: the closest names; empty if none is close."""
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    close += [k for k in known if k not in close and (name in k or k in name)][: count - len(close)]
    return f"did you mean {' or '.join(close)}?" if close else ""
