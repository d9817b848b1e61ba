"""Names and expressions that SQL over a score folder is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from string import ascii_lowercase, ascii_uppercase

from clipdre.errors import SelectionError
from clipdre.formats.folders.tables import PLACE_COLUMNS, PRIVATE, is_private

FILE, ROW = PLACE_COLUMNS
# Views: the score files alone, and all columns of the pool.
SCORED, POOL = "scored", "pool"

LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
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
    chance : str
        Our own SQL of a number in (0, 1) for each row; ``draw(p)`` is true if it is below p.
    """

    name: str
    option: str
    text: str
    kind: Kind
    chance: str = ""

    def __str__(self) -> str:
        text = repr(self.text)
        return f"{self.option} {text if len(text) <= SHOWN else text[:SHOWN] + '...'}"


def folded(name: str) -> str:
    """Return a name in the lower case of SQL, which is that of ASCII: É and é are two columns."""
    return name.translate(LOWER)


def private(name: str) -> str:
    """Return a name, usable in SQL as it is, that no column of a file has."""
    return PRIVATE + name


def check_names(names: Iterable[str], source: str) -> None:
    """Raise `SelectionError` if a column of `source` would be taken for one of our own."""
    for name in names:
        if is_private(name):
            problem = f"{source} has a column {name}, a name that clipdre keeps for itself"
            raise SelectionError(problem, "rename it")


def literal(text: str) -> str:
    """Return a text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'
