"""A score folder and a rule to the rows that are kept."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from clipdre.config import SelectConfig
from clipdre.core.reliability import TRUSTED
from clipdre.core.selection import top
from clipdre.errors import SelectionError, UnreliableEstimateWarning
from clipdre.formats.query import Rows, ScoreQuery


@dataclass(frozen=True)
class Selection:
    """The rows that a rule keeps, and what became of the others.

    Attributes
    ----------
    rule : SelectConfig
    pool : int
        Rows of the score folder.
    after_where : int
        Rows for which the condition holds.
    unranked : int
        Of these, rows whose value is null or NaN: never kept.
    asked : int
        Rows to keep.
    rows : Rows
        The kept rows in pool order; fewer than asked only where there are not enough.
    """

    rule: SelectConfig
    pool: int
    after_where: int
    unranked: int
    asked: int
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)


def parse_top(text: str) -> int | float:
    """``25%`` and ``0.25`` are fractions, ``25`` is a count.

    Raises
    ------
    SelectionError
        When `text` is none of them, a fraction is not in (0, 1], or a count is below 1.
    """
    cure = "give a count such as 1000, or a fraction such as 25% or 0.25"
    try:
        if text.endswith("%"):
            amount: int | float = float(text[:-1]) / 100
        else:
            amount = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise SelectionError(f"--top {text} is no number: {cure}") from None
    if isinstance(amount, float) and not 0 < amount <= 1:
        raise SelectionError(f"--top {text} is not above 0 and at most 100%: {cure}")
    if amount < 1 and isinstance(amount, int):
        raise SelectionError(f"--top {text} keeps nothing: {cure}")
    return amount


def asked_count(amount: int | float, rows: int) -> int:
    """Rows to keep of `rows`: a count as it is, a fraction rounded to the nearest (half up)."""
    return amount if isinstance(amount, int) else math.floor(amount * rows + 0.5)


def _warn_if_unreliable(query: ScoreQuery, column: str) -> None:
    reliability = query.errors(column)[3]
    if reliability < TRUSTED:
        warnings.warn(
            f"{column} has a reliability of {reliability:.2f}: another draw of the reference would "
            "select otherwise; score with more --neighbors and --bulk, or --reference exact",
            UnreliableEstimateWarning,
            stacklevel=3,
        )


def select(query: ScoreQuery, pool: int, rule: SelectConfig) -> Selection:
    """Keep the rows for which `rule.where` holds, and of these the top by `rule.by`.

    Raises
    ------
    SelectionError
        When the rule names no column, is no condition, or is incomplete.
    """
    if (rule.by is None) != (rule.top is None):
        raise SelectionError("--by and --top belong together: rank by what, and keep how many?")
    if rule.by is not None and f"{rule.by}_se" in query.columns:
        _warn_if_unreliable(query, rule.by)
    rows = query.rows(rule.where, rule.by)
    if rows.value is None or rule.top is None:
        return Selection(rule, pool, len(rows), 0, len(rows), rows)
    asked = asked_count(rule.top, len(rows))
    kept = rows.take(top(rows.value, rows.key_hash, asked))
    return Selection(rule, pool, len(rows), int(np.isnan(rows.value).sum()), asked, kept)
