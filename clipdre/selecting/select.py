"""Apply a rule to a score folder: which rows are kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.core.allocation import fill_evenly
from clipdre.core.reliability import TRUSTED, TRUSTED_POOL
from clipdre.errors import SelectionError, UnreliableEstimateWarning
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.soft_cap import SoftCap, soft_cap
from clipdre.sql.expressions import FILE, ROW, Expression, Kind, private
from clipdre.sql.largest import largest
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet, seeded_hash, seeded_uniform
from clipdre.sql.statistics import errors, has_errors
from clipdre.words import count, html_table


@dataclass(frozen=True)
class Counted:
    """A step with its row counts.

    Attributes
    ----------
    step : Step
    before, after_where : int
        Rows before the step, and after its condition.
    unranked : int
        Rows after the condition that lack a value (null, NaN, a weight of zero). They are never
        kept.
    asked : int
        Rows to keep. Without an amount, all remaining rows; with a penalty, the number of draws.
    kept : int
        Rows kept: fewer than `asked` only if too few have a value, or some were drawn repeatedly.
    threshold : float or None
        Value of the last row that a top or bottom keeps: the smallest, or the largest. None for
        other steps, which have no cut, and if it is infinite.
    """

    step: Step
    before: int
    after_where: int
    unranked: int
    asked: int
    kept: int
    threshold: float | None = None

    @property
    def cut(self) -> str:
        """The threshold as a condition, such as ``log_ratio >= 3.21``; empty without one.

        The kept rows fulfil it; so may others with the same value, of which a rank keeps some.
        """
        if self.threshold is None:
            return ""
        with np.errstate(over="ignore"):
            single = np.float32(self.threshold)  # as score files hold them: fewer digits are exact
        exact = str(single if single == self.threshold else self.threshold).removesuffix(".0")
        by = " ".join((self.step.by or "").split())
        return f"{by} {'<=' if self.step.bottom else '>='} {exact}"


class Places(NamedTuple):
    """Where rows are: shard index in the manifest and row in the shard's file.

    Two int64 arrays of shape (n,).
    """

    shard: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Selection:
    """The rows that a rule keeps; `len` is their number.

    Attributes
    ----------
    rule : Rule
    rows : RowSet
        The kept rows.
    pool : int
        Number of rows in the score folder.
    steps : tuple of Counted
        Row counts of each step.
    """

    rule: Rule
    rows: RowSet
    pool: int
    steps: tuple[Counted, ...]

    def __len__(self) -> int:
        return self.steps[-1].kept if self.steps else self.pool

    @property
    def query(self) -> ScoreQuery:
        """The score folder as a table."""
        return self.rows.query

    @property
    def threshold(self) -> float | None:
        """Threshold of the last step that cuts by rank; None if none does. See `Counted`."""
        cuts = [step.threshold for step in self.steps if step.threshold is not None]
        return cuts[-1] if cuts else None

    @cached_property
    def places(self) -> Places:
        """Shard index and row in the shard's file, for each row in pool order."""
        batches = [(b[FILE].to_numpy(), b[ROW].to_numpy()) for b in self.rows.batches([])]
        parts = zip(*batches, strict=True) if batches else [[np.empty(0)]] * 2
        shard, row = (np.concatenate(list(part)).astype(np.int64) for part in parts)
        return Places(shard, row)

    def keys(self) -> list[str]:
        """Return ``shard/key`` of each row in pool order, as `clipdre emit --keys` reads them."""
        rows = self.table(["shard", "key"])
        pairs = zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True)
        return [f"{shard}/{key}" for shard, key in pairs]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of the rows in pool order, in memory; None is all columns.

        Raises
        ------
        SelectionError
            If there is no such column.
        """
        return self.rows.table(columns)

    def __repr__(self) -> str:
        rule = "; ".join(str(step) for step in self.rule.steps)
        name = f"{self.rule.name}: " if self.rule.name else ""
        kept = f"{len(self):,} of {count(self.pool, 'pair')}"
        return f"Selection({name}{kept}{': ' * bool(rule)}{rule})"

    def _repr_html_(self) -> str:
        rows = [(str(s.step), f"{s.before:,}", f"{s.kept:,}") for s in self.steps]
        return html_table(repr(self), ("step", "rows before", "kept"), rows)


def select(query: ScoreQuery, rule: Rule) -> Selection:
    """Select rows by `rule`.

    Raises
    ------
    SelectionError
        If an expression names an unknown column or has the wrong type, or a weight is negative.

    Warns
    -----
    UnreliableEstimateWarning
        If a step ranks by a column of low reliability.
    """
    expressions = [e for n, step in enumerate(rule.steps) for e in _expressions(rule, n, step)]
    for step in rule.steps:
        for text in filter(None, (step.by, step.by_log)):
            if has_errors(query, text.strip()):
                _warn_if_unreliable(query, text.strip())
    rows = RowSet.of_pool(query, expressions)
    pool = before = query.manifest.rows
    counted: list[Counted] = []
    budget = None
    for n, step in enumerate(rule.steps):
        runner = _Runner(n, step, rule.seed)
        left = rows.where(runner.where) if step.where else rows
        after_where = left.count() if step.where else before
        left, unranked = runner.ranked(left, after_where)
        if step.balance:
            left = left.first_per_group(runner.group, runner.order, runner.cap)
        present = left.count() if step.balance else after_where
        if step.amount is None:
            asked = present if step.balance else present - unranked
        elif step.amount.of_budget and rule.budget is not None:
            budget = rule.budget.of(present) if budget is None else budget
            asked = int(step.amount.value * budget + 0.5)
        else:
            asked = step.amount.of(present)
        available = present if step.balance else present - unranked
        came = before
        if step.penalty is None:
            rows = runner.chosen(left, asked, available)
            before = min(asked, available)
        else:
            settings = SoftCap(step.penalty, step.per_round, rule.seed)
            rows = soft_cap(left, runner.by, asked, settings)
            before = rows.count()
        threshold = runner.threshold(rows)
        counted.append(Counted(step, came, after_where, unranked, asked, before, threshold))
    return Selection(rule, rows, pool, tuple(counted))


def _expressions(rule: Rule, n: int, step: Step) -> list[Expression]:
    """Return the user's expressions in a step, each to become a column."""
    # A stream of its own: a sample of what was drawn must not depend on how it was drawn.
    chance = seeded_uniform(rule.seed, "draw")
    kinds = {
        "where": Kind.CONDITION,
        "by": Kind.NUMBER,
        "by_log": Kind.NUMBER,
        "balance": Kind.VALUE,
        "cap": Kind.NUMBER,
    }
    return [
        Expression(private(f"{name}_{n}"), rule.name_of(n, name), text, kind, chance)
        for name, kind in kinds.items()
        if isinstance(text := getattr(step, name), str)
    ]


@dataclass(frozen=True)
class _Runner:
    """SQL of one step, over the columns that hold its expressions."""

    n: int
    step: Step
    seed: int

    @property
    def where(self) -> str:
        return private(f"where_{self.n}")

    @property
    def group(self) -> str:
        return private(f"balance_{self.n}")

    @property
    def cap(self) -> str:
        """SQL of the number of rows of a group to keep."""
        is_count = isinstance(self.step.cap, int)
        return str(self.step.cap) if is_count else private(f"cap_{self.n}")

    @property
    def by(self) -> str:
        return private(f"{'by_log' if self.step.by_log else 'by'}_{self.n}")

    @property
    def value(self) -> str:
        """SQL of the value that ranks rows, largest first."""
        if self.step.sample:
            # The rows with the largest Gumbel-perturbed log weights are a weighted sample without
            # replacement (Efraimidis, Spirakis: Weighted random sampling with a reservoir, 2006).
            return f"({self.log_weight} - ln(-ln({seeded_uniform(self.seed)})))"
        if not self.step.by or self.step.uniform:
            return "0::DOUBLE"
        return f"(-{self.by})" if self.step.bottom else self.by

    @property
    def log_weight(self) -> str:
        """SQL of the log of a row's weight."""
        if self.step.by_log:
            return self.by
        # DuckDB may evaluate this before the condition that drops zero weights, and ln(0) is an
        # error.
        return f"ln(CASE WHEN {self.by} > 0 THEN {self.by} END)" if self.step.by else "0.0"

    @property
    def ties(self) -> str:
        """SQL of the value that breaks ties, smallest first."""
        drawn = self.step.sample or self.step.uniform or not self.step.by
        return seeded_hash(self.seed) if drawn else "key_hash"

    @property
    def order(self) -> str:
        return f"{self.value} DESC, {self.ties}"

    def ranked(self, rows: RowSet, present: int) -> tuple[RowSet, int]:
        """Return the rows that have values to rank and group by, and how many do not."""
        conditions = []
        if self.step.weighed:
            conditions.append(f"{self.by} IS NOT NULL AND NOT isnan({self.by})")
        if self.step.sample and self.step.weighed:
            self._check_weights(rows)
            least = "'-infinity'::DOUBLE" if self.step.by_log else "0"
            conditions.append(f"{self.by} > {least}")
        if self.step.balance:
            is_nan = (
                f"typeof({self.group}) IN ('FLOAT', 'DOUBLE') AND {self.group}::VARCHAR = 'nan'"
            )
            conditions.append(f"{self.group} IS NOT NULL AND NOT ({is_nan})")
        if isinstance(self.step.cap, str):
            conditions.append(f"{self.cap} IS NOT NULL AND NOT isnan({self.cap})")
        if not conditions:
            return rows, 0
        left = rows.where(" AND ".join(conditions))
        return left, present - left.count()

    def _check_weights(self, rows: RowSet) -> None:
        if self.step.by_log:
            if wrong := rows.count(f"{self.by} = 'infinity'::DOUBLE"):
                problem = f"the log weight `by_log` {self.step.by_log!r} is infinite in "
                raise SelectionError(problem + count(wrong, "row"), "leave them out with `where`")
            return
        wrong = rows.count(f"{self.by} < 0 OR isinf({self.by})")
        if wrong:
            raise SelectionError(
                f"the weight `by` {self.step.by!r} is negative or infinite in "
                f"{count(wrong, 'row')}",
                "use weights that are finite and at least 0, or their logs with `by_log`",
            )

    def chosen(self, rows: RowSet, asked: int, available: int) -> RowSet:
        """Return `asked` of the `available` rows, or all of them if there are fewer."""
        if asked >= available:
            return rows
        if asked == 0:
            return rows.where("false")
        if self.step.uniform:
            return self._uniform(rows, asked)
        return largest(rows, available, self.value, self.ties, asked)

    def threshold(self, kept: RowSet) -> float | None:
        """Return the value of the last kept row, see `Counted`."""
        if self.step.uniform or not (self.step.top or self.step.bottom):
            return None
        (value,) = kept.one(f"{'max' if self.step.bottom else 'min'}({self.by})")
        return value if value is not None and math.isfinite(value) else None

    def _uniform(self, rows: RowSet, asked: int) -> RowSet:
        low, high = rows.one(f"min({self.by})", f"max({self.by})", condition=f"isfinite({self.by})")
        bins = self.step.bins
        place = f"({self.by} - {low!r}::DOUBLE) / {high - low!r}::DOUBLE * {bins}"
        nth = f"greatest(0, least({bins - 1}, floor({place})))::INT" if high > low else "0"
        counts = np.zeros(bins, np.int64)
        for at, held in rows.all(f"SELECT {nth}, count(*) FROM {{rows}} GROUP BY 1"):
            counts[at] = held
        caps = fill_evenly(counts, asked).tolist()
        return rows.first_per_group(nth, self.ties, f"({caps})[{nth} + 1]")


def _warn_if_unreliable(query: ScoreQuery, column: str) -> None:
    pool = query.manifest.pool_reliability.get(column.lower(), 1.0)
    if pool < TRUSTED_POOL:
        warnings.warn(
            f"{column} has a pool reliability of {pool:.2f}: against other pairs it would rank "
            "these otherwise; score a larger pool, rank by another column ('clipdre info' lists "
            "them), or keep a larger share",
            UnreliableEstimateWarning,
            stacklevel=3,
        )
    reliability = errors(query, [column])[column].reliability
    if reliability < TRUSTED:
        warnings.warn(
            f"{column} has a reliability of {reliability:.2f}, so another draw of the reference "
            "would select other rows: score with `reference` exact, or stratified with larger "
            "`neighbors` and `bulk`",
            UnreliableEstimateWarning,
            stacklevel=3,
        )
