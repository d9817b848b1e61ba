"""Weights that give columns of the pool the distribution that is asked for."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from textwrap import shorten
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdre.core.columns import Column
from clipdre.core.counts import count_texts, counts_of_texts, merge_texts
from clipdre.core.raking import Marginal, rake
from clipdre.errors import ScoresError, UsageError
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.words import one_line

UNIFORM = "uniform"
FORM = """write --target 'language = {en = 0.5, de = 0.5}' or 'language = "uniform"'"""
MOST_CELLS = 1_000_000
# Of which a sum stays finite.
LARGEST = 1e100
SHOWN = 100  # characters of a text in a message
# Values of a row, null for what is missing.
Cell = tuple[str | None, ...]


@dataclass(frozen=True)
class Marginals:
    """Weight of a pair with which columns of the pool have the shares that are asked for.

    Pairs count in cells, one for each combination of the columns' values. Iterative proportional
    fitting finds the weights, one per cell, that meet all targets and are nearest to equal ones.
    With `--label`, a target column also becomes independent of that column: within each of the
    label's values the shares are the same. Draw with ``--where 'draw(marginal_probability)'``,
    which keeps as many pairs as the targets allow, or train with the weights.

    It helps to remove an imbalance that a model would learn: between languages or sources, or
    between who is shown and what they are shown doing. It misleads if the columns are guesses, as
    their mistakes are balanced too, and where a rare value has to become common: few pairs then
    carry most of the weight (`marginal_ess` in the record), or few are kept. Rows without a value,
    or with one that has no share, have weight 0. Continuous columns need to be grouped first.
    """

    name: ClassVar = "marginals"
    title: ClassVar = "Weights that balance columns to target shares"
    source: ClassVar = "Alabdulmohsin et al., CLIP the Bias, ICLR 2024 (arXiv 2403.04547)"
    cost: ClassVar = "one pass over columns"
    version: ClassVar = 1
    example: ClassVar = {"target": ('width = "uniform"',)}

    target: tuple[str, ...] = setting(
        "Column and shares of its values, such as 'language = {en = 0.5, de = 0.5}', or equal "
        "ones: 'language = \"uniform\"'. Repeat it for more columns."
    )
    label: tuple[str, ...] = setting(
        "Column of which the target columns shall be independent. Repeat it for more.", default=()
    )

    def __post_init__(self) -> None:
        self._targets()

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        names = ", ".join(self._targets())
        return (
            Column("marginal_weight", "", f"weight that balances {names}; mean 1", "high"),
            Column("marginal_probability", "", "the weight as a share of the largest", "high"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Count the pool's cells, and weigh them."""
        names = [*self._targets(), *self.label]
        for name in names:
            if not pool.has_column(name):
                raise UsageError(f"there is no column {name}", "name a score or measured column")
        counted = pool.reduce("cells", partial(_counted, columns=names), _merged)
        cells = {_cell(text): n for text, n in counts_of_texts(counted).items()}
        weights, error = self._weights(cells)
        members = np.array([float(n) for n in cells.values()])
        sums = (weights * members).sum(), (weights**2 * members).sum()
        text = json.dumps([[*zip(map(list, cells), weights.tolist(), strict=True)], weights.max()])
        return {
            "weights": np.frombuffer(text.encode(), np.uint8),
            "marginal_deviation": np.array(error),
            "marginal_ess": np.array(sums[0] ** 2 / sums[1]),
            "marginal_kept": np.array(sums[0] / weights.max() / members.sum()),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        weights, largest = _of_cells(learned["weights"].tobytes())
        cells = _cells(rows, [*self._targets(), *self.label])
        found = np.array([weights[cell] for cell in cells])
        return {"marginal_weight": found, "marginal_probability": found / largest}

    def _targets(self) -> dict[str, dict[str, float] | str]:
        """Return the target shares of each column, or `UNIFORM`."""
        found: dict[str, dict[str, float] | str] = {}
        for text in self.target:
            try:
                own = tomllib.loads(text)
            except (ValueError, RecursionError) as error:
                shown = shorten(text, SHOWN, placeholder="...")
                problem = f"`target` {shown!r} cannot be read: {one_line(error)}"
                raise UsageError(problem, FORM) from error
            if repeated := sorted(own.keys() & found.keys()):
                raise UsageError(f"`target` names {repeated[0]} twice", "give all shares at once")
            found |= own
        if not found:
            raise UsageError("`target` is missing", FORM)
        for name, shares in found.items():
            if shares != UNIFORM and not _are_shares(shares):
                problem = f"`target` {name} has no positive shares of values"
                raise UsageError(problem, FORM)
        return found

    def _weights(self, cells: Mapping[Cell, int]) -> tuple[npt.NDArray[np.float64], float]:
        """Return the weight of each cell, with mean 1 over rows, and the largest error."""
        names = list(self._targets())
        shares = [self._shares(name, {c[n] for c in cells}) for n, name in enumerate(names)]
        has_share = [all(c[n] in shares[n] for n in range(len(names))) for c in cells]
        kept = [cell for cell, has in zip(cells, has_share, strict=True) if has]
        counts = np.array([float(cells[cell]) for cell in kept])
        if not kept:
            raise ScoresError("no pair has a value with a share in every column", FORM)
        labels = range(len(names), len(names) + len(self.label))
        marginals = [
            _marginal([tuple(cell[n] for n in places) for cell in kept], counts, own)
            for column, own in enumerate(shares)
            for places in [(column,), *((column, label) for label in labels)]
        ]
        raked, error = rake(counts, marginals)
        weights = np.zeros(len(cells))
        weights[has_share] = raked * sum(cells.values()) / counts.sum()
        return weights, error

    def _shares(self, name: str, present: set[str | None]) -> dict[str | None, float]:
        wanted = self._targets()[name]
        if isinstance(wanted, str):
            wanted = dict.fromkeys(sorted(value for value in present if value is not None), 1.0)
        asked = {value: share for value, share in wanted.items() if share > 0}
        if missing := sorted(asked.keys() - present):
            known = ", ".join(sorted(value for value in present if value is not None)[:10])
            problem = f"no pair has {name} {missing[0]}, which has a share in `target`"
            raise ScoresError(problem, f"give shares to values that occur, such as {known}")
        total = sum(asked.values())
        return {value: share / total for value, share in asked.items()}


def _are_shares(shares: object) -> bool:
    if not isinstance(shares, dict):
        return False
    values = list(shares.values())
    are_numbers = all(type(value) in (int, float) and 0 <= value <= LARGEST for value in values)
    return are_numbers and any(values)


def _marginal(
    groups: list[Cell], counts: npt.NDArray[np.float64], shares: Mapping[str | None, float]
) -> Marginal:
    """Return the target of a column, or of a column and a label: its shares within each label."""
    number = {group: n for n, group in enumerate(dict.fromkeys(groups))}
    codes = np.array([number[group] for group in groups])
    labels = {group[1:] for group in number}
    of_label = dict.fromkeys(labels, 0.0)
    for group, n in zip(groups, counts.tolist(), strict=True):
        of_label[group[1:]] += n / counts.sum()
    return Marginal(codes, np.array([shares[g[0]] * of_label[g[1:]] for g in number]))


def _counted(rows: Rows, columns: list[str]) -> Arrays:
    return count_texts(json.dumps(cell) for cell in _cells(rows, columns))


def _merged(first: Arrays, second: Arrays) -> Arrays:
    found = merge_texts(first, second)
    if len(found["codes"]) > MOST_CELLS:
        problem = f"the columns have more than {MOST_CELLS:,} combinations of values"
        raise ScoresError(problem, "use columns with few values, such as languages or clusters")
    return found


def _cells(rows: Rows, columns: list[str]) -> Iterable[Cell]:
    """Yield the values of each row as texts."""
    return zip(*([_text(v) for v in rows.column(name).tolist()] for name in columns), strict=True)


def _text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> Cell:
    return tuple(json.loads(text))


@lru_cache(maxsize=1)
def _of_cells(text: bytes) -> tuple[dict[Cell, float], float]:
    cells, largest = json.loads(text)
    return {tuple(cell): weight for cell, weight in cells}, largest
