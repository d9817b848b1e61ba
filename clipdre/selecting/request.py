"""Everything a user can ask `filter` for, checked once for Python and the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from clipdre.config import Best
from clipdre.errors import SelectionError
from clipdre.formats.folders.columns import CAPTION_SOURCE, RANK
from clipdre.only_with import NotWith, OnlyWith, Pairing, check
from clipdre.selecting.recipes import BUDGET, Setting, check_columns, read_recipe
from clipdre.selecting.rules import (
    AMOUNTS,
    SAMPLE,
    STEP_PAIRINGS,
    Rule,
    Step,
    parse_amount,
    parse_cap,
)
from clipdre.sql.query import ScoreQuery

Quantity = str | int | float
RANKING = (*AMOUNTS, "by", "by_log", "uniform", "bins", "balance", "cap", "penalty", "per_round")
# Which options of a request go together.
PAIRINGS: tuple[Pairing, ...] = (
    *(NotWith(name, ("recipe",), because="which says how to rank") for name in RANKING),
    OnlyWith("budget", ("recipe",), because="whose size it sets"),
    OnlyWith("settings", ("recipe",), because="whose options they set"),
    OnlyWith("best_by", ("best",), because="whose score it is"),
    *STEP_PAIRINGS,
)


@dataclass(frozen=True)
class Request:
    """A selection as a user asks for it: the attributes of one step, or recipes.

    Amounts are counts (int, "1000") or shares (float, "25%", "0.25").

    Attributes
    ----------
    distinct : bool
        Keep only the best of each group of alike pairs, before anything else.
    best, best_by : Best or None, str or None
        Keep only the best row of each sample by a score (None: log_ratio), next: in pools of
        several captions per image, the best caption.
    where : str or None
        SQL condition to apply first, also before a recipe.
    by : str or None
        Column or SQL expression to rank by; with `sample`, the weight of a row.
    by_log : str or None
        With `sample`, the log of the weight of a row.
    top, bottom, sample : str, int, float or None
        How many rows to keep: the largest, the smallest, or random ones.
    penalty, per_round : float or None, int or None
        With `by_log`, draw in rounds of `per_round`; each draw of a row lowers its log weight by
        `penalty`. See `clipdre.selecting.rules.Step`.
    uniform, bins : bool, int or None
        Spread the amount of `top` evenly over this number of bins of equal width.
    balance, cap : str or None, int, str or None
        Keep at most `cap` rows for each value of the SQL expression `balance`; a text that is not
        a count is a SQL expression.
    recipe : str or sequence of str
        Recipes, each by its name or the path of its file.
    budget : str, int, float or None
        Size of the subset of each recipe.
    settings : mapping or None
        Values for the recipes' options.
    seed : int
        Random seed for draws.

    Raises
    ------
    UsageError
        If an option would have no effect or contradicts another one (`PAIRINGS`).
    """

    distinct: bool = False
    best: Best | None = None
    best_by: str | None = None
    where: str | None = None
    by: str | None = None
    by_log: str | None = None
    top: Quantity | None = None
    bottom: Quantity | None = None
    uniform: bool = False
    bins: int | None = None
    sample: Quantity | None = None
    penalty: float | None = None
    per_round: int | None = None
    balance: str | None = None
    cap: int | str | None = None
    recipe: str | Sequence[str] = ()
    budget: Quantity | None = None
    settings: Mapping[str, Setting] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check({f.name: getattr(self, f.name) for f in fields(self)}, PAIRINGS)

    def rules(self, query: ScoreQuery) -> list[Rule]:
        """Return one rule per recipe, or a single rule without recipes.

        Raises
        ------
        SelectionError
            If an amount is malformed, or a recipe cannot be read or does not fit the scores.
        """
        recipes = [self.recipe] if isinstance(self.recipe, str) else self.recipe
        if not recipes:
            first = self._first(query, None)
            return [Rule((*first, self._step()), seed=self.seed, extra=len(first))]
        budget = None if self.budget is None else parse_amount(self.budget, BUDGET)
        first = self._first(query, self.where)
        return [
            read_recipe(name).rule(query, self.settings, budget, first, self.seed)
            for name in recipes
        ]

    def _first(self, query: ScoreQuery, where: str | None) -> list[Step]:
        """Return the steps before the rule or recipe."""
        if self.distinct:
            check_columns([RANK.name], query, "`distinct`")
        steps = [Step(where=f"{RANK.name} = 1")] if self.distinct else []
        if self.best is not None:
            if CAPTION_SOURCE.name not in query.columns:
                problem = "`best` caption needs scores of several captions per image"
                raise SelectionError(problem, "score with several `text_key`")
            steps.append(Step(balance=SAMPLE, cap=1, by=self.best_by or "log_ratio"))
        return [*steps, *([Step(where=where)] if where else [])]

    def _step(self) -> Step:
        amounts = {
            name: parse_amount(value, name)
            for name in AMOUNTS
            if (value := getattr(self, name)) is not None
        }
        return Step(
            where=self.where,
            balance=self.balance,
            cap=None if self.cap is None else parse_cap(self.cap),
            by=self.by,
            by_log=self.by_log,
            uniform=self.uniform,
            bins=Step.bins if self.bins is None else self.bins,
            penalty=self.penalty,
            per_round=Step.per_round if self.per_round is None else self.per_round,
            **amounts,
        )
