"""Names and expressions that SQL over a score folder is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# DuckDB's own columns of a Parquet scan: position of the file in the list, of the row in its file.
FILE, ROW = "file_index", "file_row_number"
# Views: the score files alone, and all columns of the pool.
SCORED, POOL = "scored", "pool"

SHOWN = 300  # characters of an expression in messages


class Kind(Enum):
    """What an expression has to be."""

    CONDITION = "a condition"
    NUMBER = "a number"
    VALUE = "a value"


@dataclass(frozen=True)
class Expression:
    """A user's expression.

    Attributes
    ----------
    name : str
        Column that it becomes.
    option : str
        Parameter that gave it, as messages name it.
    text : str
    kind : Kind
    """

    name: str
    option: str
    text: str
    kind: Kind

    def __str__(self) -> str:
        text = repr(self.text)
        return f"{self.option} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}"


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'
