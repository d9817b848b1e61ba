"""Rules of selection: which rows of a pool are kept, in which order of steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from clipdre.errors import SelectionError

CURE = "give a count such as 1000, or a fraction such as 25% or 0.25"
AMOUNTS = ("top", "bottom", "sample")
BUDGET = re.compile(r"(?:(?P<factor>[\d.]+)\s*\*?\s*)?budget")


@dataclass(frozen=True)
class Amount:
    """How many rows to keep.

    Attributes
    ----------
    value : int or float
        A count (int), or a share in (0, 1] of the rows that are left (float).
    of_budget : bool
        `value` is a multiple of the rule's budget instead.
    """

    value: int | float
    of_budget: bool = False

    def of(self, rows: int) -> int:
        """Rows to keep of `rows`: a count as it is, a share rounded to the nearest (half up)."""
        return self.value if isinstance(self.value, int) else math.floor(self.value * rows + 0.5)


def parse_amount(text: str, name: str) -> Amount:
    """``25%`` and ``0.25`` are shares, ``25`` is a count, ``1.8 * budget`` speaks of the budget.

    Raises
    ------
    SelectionError
        When `text`, which was given as `name`, is none of them, a share is not in (0, 1], or a
        count is below 1.
    """
    text = text.strip()
    try:
        if found := BUDGET.fullmatch(text):
            return _positive(Amount(float(found["factor"] or 1), of_budget=True), text, name)
        if text.endswith("%"):
            amount: int | float = float(text[:-1]) / 100
        else:
            amount = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise SelectionError(f"{name} {text} is no number: {CURE}") from None
    if isinstance(amount, float) and not 0 < amount <= 1:
        raise SelectionError(f"{name} {text} is not above 0 and at most 100%: {CURE}")
    return _positive(Amount(amount), text, name)


def _positive(amount: Amount, text: str, name: str) -> Amount:
    if amount.value <= 0:
        raise SelectionError(f"{name} {text} keeps nothing: {CURE}")
    return amount


@dataclass(frozen=True)
class Step:
    """One step of a rule. Within a step: `where`, then `balance`, then `top` and its like.

    Attributes
    ----------
    where : str or None
        SQL condition over the columns.
    balance, cap : str, int or None
        At most `cap` rows for each value of the SQL expression `balance`: the best by `by`, or
        any, where nothing is ranked.
    by : str or None
        Column or SQL expression to rank by; with `sample` the weight of a row.
    top, bottom : Amount or None
        How many of the largest, or smallest, to keep.
    uniform, bins : bool, int
        Keep the amount of `top` spread evenly over `bins` bins of equal width instead.
    sample : Amount or None
        How many to draw without replacement.
    """

    where: str | None = None
    balance: str | None = None
    cap: int | None = None
    by: str | None = None
    top: Amount | None = None
    bottom: Amount | None = None
    uniform: bool = False
    bins: int = 100
    sample: Amount | None = None

    def __post_init__(self) -> None:
        chosen = [name for name in AMOUNTS if getattr(self, name)]
        if len(chosen) > 1:
            raise SelectionError(f"--{chosen[0]} and --{chosen[1]} exclude each other: give one")
        ranked = self.top or self.bottom
        if (self.by is None) if ranked else (self.by and not (self.sample or self.balance)):
            raise SelectionError("--by and --top belong together: rank by what, and keep how many?")
        if (self.balance is None) != (self.cap is None):
            raise SelectionError("--balance and --cap belong together: at most how many per value?")
        if self.uniform and not self.top:
            raise SelectionError("--uniform spreads what --top asks for: give --by and --top too")
        if self.bins < 1 or (self.cap is not None and self.cap < 1):
            raise SelectionError("--bins and --cap are counts of at least 1")

    @property
    def amount(self) -> Amount | None:
        """How many rows are asked for, where that is said."""
        return self.top or self.bottom or self.sample

    def __str__(self) -> str:
        words = [f"where {self.where}"] if self.where else []
        if self.balance:
            words.append(f"at most {self.cap} per {self.balance}")
        if self.amount is not None:
            verb = "uniform over" if self.uniform else "sample by" if self.sample else "top by"
            words.append(f"{'bottom by' if self.bottom else verb} {self.by or 'chance'}")
        return ", ".join(words) or "all"


@dataclass(frozen=True)
class Rule:
    """Steps, each among what the one before left.

    Attributes
    ----------
    steps : tuple of Step
    budget : Amount or None
        Size of the subset, for amounts that speak of it; a share is of the rows that reach the
        first step that does.
    seed : int
        Another seed draws otherwise.
    name : str
        Of the recipe, where there is one.
    """

    steps: tuple[Step, ...] = ()
    budget: Amount | None = None
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        amounts = [step.amount for step in self.steps]
        if self.budget is None and any(amount and amount.of_budget for amount in amounts):
            raise SelectionError("a step speaks of the budget, but there is none: give --budget")
        if self.budget is not None and self.budget.of_budget:
            raise SelectionError(f"the budget cannot be a multiple of itself: {CURE}")
