"""How often each language occurs, in the pool and among what is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clipdre.looking.text import plain
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import POOL, quoted
from clipdre.sql.query import ScoreQuery

# Columns that hold a language, by the names that pools and scorers give them.
COLUMN = re.compile(r"lang|language", re.IGNORECASE)
SHOWN = 12
LONGEST = 40


@dataclass(frozen=True)
class Language:
    """A language: its pairs in the pool, and those that each selection keeps."""

    name: str
    pool: int
    kept: list[int]


def languages(query: ScoreQuery, selections: Mapping[str, Selection]) -> list[Language]:
    """Return the most frequent languages; none if no column holds them."""
    column = next((name for name in query.columns if COLUMN.fullmatch(name)), None)
    if column is None:
        return []
    value = f"left(coalesce({quoted(column)}::VARCHAR, ''), {LONGEST})"
    found = query.fetchall(
        f"SELECT {value}, count(*) FROM {POOL} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {SHOWN}"
    )
    kept = [
        dict(selection.rows.wide().all(f"SELECT {value}, count(*) FROM {{rows}} GROUP BY 1"))
        for selection in selections.values()
    ]
    return [
        Language(plain(name) or "unknown", pairs, [own.get(name, 0) for own in kept])
        for name, pairs in found
    ]
