"""Selection rules: which rows of a pool to keep, step by step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields

from clipdre.errors import SelectionError
from clipdre.only_with import NotWith, OnlyWith, Pairing, check
from clipdre.words import whole_number

CURE = "use a count such as 1000 or 10k, or a share such as 25% or 0.25"
MOST_BINS, MOST_ROWS = 1_000_000, 2**62
AMOUNTS = ("top", "bottom", "sample")
# What a sample is, whatever its captions.
SAMPLE = "list_value(shard, offset::VARCHAR)"
BUDGET = re.compile(r"(?:(?P<factor>[\d.]{1,20})\s*\*?\s*)?budget")
# Which attributes of a step go together.
STEP_PAIRINGS: tuple[Pairing, ...] = (
    NotWith("top", ("bottom", "sample")),
    NotWith("bottom", ("sample",)),
    OnlyWith("top", ("by",), because="the score to rank by"),
    OnlyWith("bottom", ("by",), because="the score to rank by"),
    OnlyWith("uniform", ("top",), because="the amount it spreads over bins"),
    OnlyWith("bins", ("uniform",)),
    OnlyWith("balance", ("cap",), because="the number of rows to keep per value"),
    OnlyWith("cap", ("balance",), because="the value to cap"),
    OnlyWith("by", (*AMOUNTS, "balance")),
    OnlyWith("by_log", ("sample",), because="which draws by weights"),
    NotWith("by_log", ("by",), because="the weight itself"),
    OnlyWith("penalty", ("by_log",), because="the log weight that it lowers"),
    OnlyWith("per_round", ("penalty",), because="which has rounds"),
)


@dataclass(frozen=True)
class Amount:
    """How many rows to keep.

    Attributes
    ----------
    value : int or float
        A count (int), or a share in (0, 1] of the remaining rows (float).
    of_budget : bool
        Whether `value` is a multiple of the rule's budget instead.
    """

    value: int | float
    of_budget: bool = False

    def of(self, rows: int) -> int:
        """Return how many of `rows` to keep; shares are rounded half up."""
        return self.value if isinstance(self.value, int) else math.floor(self.value * rows + 0.5)


def parse_amount(value: str | int | float, name: str, *, of_budget: bool = False) -> Amount:
    """Parse a count (``1000``, ``10k``, ``1.5M``) or a share (``25%``, ``0.25``).

    Parameters
    ----------
    value : str, int or float
        An int is a count, a float a share.
    name : str
        The parameter's name in messages.
    of_budget : bool
        Whether to accept multiples of the budget (``1.8 * budget``), as recipes use them.

    Raises
    ------
    SelectionError
        If `value` is not an amount, a share is not in (0, 1], or a count is below 1.
    """
    text = str(value).strip()
    multiple = BUDGET.fullmatch(text) if of_budget else None
    try:
        if multiple:
            number: int | float = float(multiple["factor"] or 1)
        elif text.endswith("%"):
            number = float(text[:-1]) / 100
        elif text[-1:].isalpha():
            number = whole_number(text)
        else:
            number = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        number = math.nan
    if isinstance(number, float) and math.isnan(number):
        raise SelectionError(f"`{name}` {text!r} is not a number", CURE)
    if isinstance(number, int) and number > MOST_ROWS:
        raise SelectionError(f"`{name}` {text[:20]}... is more than any pool has", CURE)
    if number <= 0:
        raise SelectionError(f"`{name}` {text} keeps nothing", CURE)
    if isinstance(number, float) and number > 1 and not multiple:
        raise SelectionError(f"`{name}` {text} is above 100%", CURE)
    return Amount(number, of_budget=multiple is not None)


def parse_cap(value: int | str) -> int | str:
    """Return a count (``1000``, ``10k``), or else the SQL expression of one."""
    try:
        return whole_number(str(value))
    except ValueError:
        return str(value)


@dataclass(frozen=True)
class Step:
    """One step of a rule: first `where`, then `balance`, then an amount.

    Attributes
    ----------
    where : str or None
        SQL condition over the columns.
    balance, cap : str, int or None
        Keep at most `cap` rows for each value of the SQL expression `balance`: the best by `by`,
        or random ones without it. A text is a SQL expression: a row is kept if its place among
        those of its value is at most its own cap.
    by : str or None
        Column or SQL expression to rank by; with `sample`, the weight of a row.
    by_log : str or None
        Log of the weight of a row, for weights that are too large or too small for a number.
    top, bottom : Amount or None
        How many of the largest, or smallest, to keep.
    uniform, bins : bool, int
        Spread the amount of `top` evenly over `bins` bins of equal width.
    sample : Amount or None
        How many to draw without replacement.
    penalty, per_round : float or None, int
        Draw in rounds of `per_round`, without replacement in each; `by_log` falls by `penalty` for
        each time a row was drawn (soft cap sampling). `sample` is then the number of draws in all
        rounds, and column ``times`` of the kept rows how often each was drawn.

    Raises
    ------
    UsageError
        If attributes do not go together (`STEP_PAIRINGS`).
    SelectionError
        If `bins`, `cap` or `per_round` is below 1, or larger than any use of it, or `penalty` is
        not a number from 0 on.
    """

    where: str | None = None
    balance: str | None = None
    cap: int | str | None = None
    by: str | None = None
    by_log: str | None = None
    top: Amount | None = None
    bottom: Amount | None = None
    uniform: bool = False
    bins: int = 100
    sample: Amount | None = None
    penalty: float | None = None
    per_round: int = 100_000

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        check(changed, STEP_PAIRINGS)
        for name, most in (("bins", MOST_BINS), ("cap", MOST_ROWS), ("per_round", MOST_ROWS)):
            if isinstance(values[name], int) and not 1 <= values[name] <= most:
                problem = f"`{name}` is {values[name]}"
                raise SelectionError(problem, f"use a count between 1 and {most:,}")
        if self.penalty is not None and not 0 <= self.penalty < math.inf:
            raise SelectionError(f"`penalty` is {self.penalty}", "use a number from 0 on")

    @property
    def amount(self) -> Amount | None:
        """The amount to keep, if one is given."""
        return self.top or self.bottom or self.sample

    @property
    def weighed(self) -> str | None:
        """What ranks or weighs rows, in words."""
        return f"exp({self.by_log})" if self.by_log else self.by

    def __str__(self) -> str:
        words = [f"where {self.where}"] if self.where else []
        if self.balance == SAMPLE:
            words.append(f"the best row of each sample by {self.by}")
        elif self.balance:
            words.append(f"at most {self.cap} per {self.balance}")
        if self.amount is not None:
            verb = "uniform over" if self.uniform else "sample by" if self.sample else "top by"
            capped = "" if self.penalty is None else f", {self.penalty:g} less for each draw"
            by = f"{self.weighed or 'chance'}{capped}"
            words.append(f"{'bottom by' if self.bottom else verb} {by}")
        return ", ".join(words) or "all"


@dataclass(frozen=True)
class Rule:
    """Steps, each applied to the rows that the previous one kept.

    Attributes
    ----------
    steps : tuple of Step
    budget : Amount or None
        Size of the subset, for amounts that are multiples of it. A share refers to the rows that
        reach the first step with such an amount.
    seed : int
        Random seed for draws.
    name : str
        Name of the recipe, if the rule comes from one.
    extra : int
        Number of first steps that do not come from the recipe.

    Raises
    ------
    SelectionError
        If a step needs a budget that is missing, or the budget is a multiple of itself.
    """

    steps: tuple[Step, ...] = ()
    budget: Amount | None = None
    seed: int = 0
    name: str = ""
    extra: int = 0

    def __post_init__(self) -> None:
        amounts = [step.amount for step in self.steps]
        if self.budget is None and any(amount and amount.of_budget for amount in amounts):
            raise SelectionError(
                "a step keeps a multiple of the budget, which is not set", "set `budget`"
            )
        if self.budget is not None and self.budget.of_budget:
            raise SelectionError("`budget` cannot be a multiple of itself", CURE)

    def name_of(self, n: int, attribute: str) -> str:
        """Return how messages name an attribute of step `n`."""
        if not self.name or n < self.extra:
            return f"`{attribute}`"
        return f"recipe {self.name}, step {n - self.extra + 1}: {attribute}"
