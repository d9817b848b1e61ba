"""Tables of stored results: means over seeds, and paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from evidence.stored import EVERYTHING, NO_TEACHER

BASELINE = "similarity"
UNWEIGHTED = "unweighted"
WEIGHTED = "weighted"  # folder of those results
CONFIDENCE = 0.95
SEEDS_OF_INTERVAL = 3  # with two, an interval says nothing
Row = Mapping[str, Any]
Seeds = dict[int, float]


class Interval(NamedTuple):
    """A mean of n values with its two-sided interval; NaN for both ends of one value."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n < SEEDS_OF_INTERVAL:
            return f"{100 * self.mean:+.1f}"
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def interval(values: Sequence[float]) -> Interval:
    """Compute the mean and its 95 % interval by Student's t."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return Interval(mean, float(mean - half), float(mean + half), n)


def paired(one: Seeds, other: Seeds) -> Interval:
    """Compute the mean difference of two rules over the seeds that both have."""
    return interval([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def report(folder: Path) -> str:
    """Return all tables of the results in a folder, as Markdown."""
    found = list(tables(read_rows(folder)))
    weighted = read_rows(folder / WEIGHTED)
    return "\n".join([*found, weighted_table(weighted)] if weighted else found).rstrip()


def read_rows(folder: Path) -> list[Row]:
    """Read the rows of all pools."""
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


class Group(NamedTuple):
    """What is compared: students on one pool, with one teacher, at one number of steps."""

    pool: str
    teacher: str
    steps: int


def groups(rows: Iterable[Row]) -> list[Group]:
    """Return the groups in which rules were compared, in the order of the rows."""
    found = {Group(r["pool"], r["teacher"], r["steps"]): None for r in rows}
    return [group for group in found if group.teacher != NO_TEACHER]


def by_rule(
    rows: Iterable[Row], group: Group, budget: float, value: str = "accuracy"
) -> dict[str, Seeds]:
    """Return a value by rule and seed, with the rules that need no teacher."""
    found: dict[str, Seeds] = {}
    for row in rows:
        ours = (row["pool"], row["steps"]) == (group.pool, group.steps)
        if not ours or row["teacher"] not in (group.teacher, NO_TEACHER):
            continue
        if row["budget"] == budget or row["rule"] == EVERYTHING:
            found.setdefault(row["rule"], {})[row["seed"]] = row[value]
    return found


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a Markdown table for each group: accuracy, and the difference from similarity."""
    for group in groups(rows):
        title = f"Pool **{group.pool}**, scored by `{group.teacher}`, {group.steps} steps"
        yield f"{title}\n\n{_table(rows, group)}\n"


def _table(rows: Sequence[Row], group: Group) -> str:
    budgets = sorted({r["budget"] for r in rows if r["pool"] == group.pool and r["budget"] < 1})
    budgets = [b for b in budgets if BASELINE in by_rule(rows, group, b)]
    accuracy = {budget: by_rule(rows, group, budget) for budget in budgets}
    clean = {budget: by_rule(rows, group, budget, "clean") for budget in budgets}
    head, under = ["rule"], ["---"]
    for budget in budgets:
        head += [f"{budget:.0%}", f"minus {BASELINE}, points", "clean"]
        under += ["---:"] * 3
    names = {name: None for budget in budgets for name in accuracy[budget]}
    last = budgets[-1] if budgets else None
    order = sorted(names, key=lambda name: -_mean(accuracy[last].get(name)))
    lines = [_line(head), _line(under)]
    for name in order:
        line = [name]
        for budget in budgets:
            line += _entries(accuracy[budget], clean[budget], name)
        lines.append(_line(line))
    return "\n".join(lines)


def _entries(accuracy: Mapping[str, Seeds], clean: Mapping[str, Seeds], name: str) -> list[str]:
    if name not in accuracy:
        return ["", "", ""]
    ours = accuracy[name]
    difference = "" if name == BASELINE else str(paired(ours, accuracy[BASELINE]))
    share = _mean(clean[name])
    pure = "" if math.isnan(share) else f"{share:.0%}"
    return [f"{_mean(ours):.3f} ({len(ours)})", difference, pure]


def _mean(seeds: Seeds | None) -> float:
    return float(np.mean(list(seeds.values()))) if seeds else 0.0


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def summary_rows(rows: Sequence[Row]) -> pa.Table:
    """Return the mean accuracy of each pool, teacher, rule and budget, with its interval."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("pool", "teacher", "rule", "budget"))
        found.setdefault(key, []).append(row["accuracy"])
    return pa.Table.from_pylist(
        [
            {
                "pool": pool,
                "teacher": teacher,
                "rule": rule,
                "budget": budget,
                **interval(values)._asdict(),
            }
            for (pool, teacher, rule, budget), values in found.items()
        ]
    )


def weighted_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of students of one domain, with and without weights.

    Differences are from the unweighted student of the same seed.
    """
    head = ["domain", "loss", "seeds", "F1 inside", "points", "accuracy outside", "points"]
    lines = [_line([*head, "effective pairs"]), _line(["---", "---", *["---:"] * 6])]
    for domain, arm in dict.fromkeys((row["domain"], row["arm"]) for row in rows):
        ours, plain = (
            [r for r in rows if (r["domain"], r["arm"]) == (domain, a)] for a in (arm, UNWEIGHTED)
        )
        cells = [domain, arm, str(len(ours))]
        for value in ("inside_f1", "outside"):
            one, other = ({r["seed"]: r[value] for r in part} for part in (ours, plain))
            cells += [f"{_mean(one):.3f}", "" if arm == UNWEIGHTED else str(paired(one, other))]
        lines.append(_line([*cells, f"{np.mean([r['ess'] for r in ours]):.0%}"]))
    return "\n".join(lines)
