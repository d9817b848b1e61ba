"""Draw rows in rounds, in which what was drawn before becomes less likely."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.errors import SelectionError
from clipdre.sql.expressions import FILE, ROW, folded, quoted
from clipdre.sql.row_set import GOLDEN, PLACE, RowSet

# How often a row was drawn: a column of what is kept.
TIMES = "times"
# Each is a pass over all rows.
MOST_ROUNDS = 100_000


@dataclass(frozen=True)
class SoftCap:
    """How rows are drawn.

    Attributes
    ----------
    penalty : float
        What the log weight of a row loses each time it is drawn.
    per_round : int
        Draws of a round, in which a row is drawn at most once.
    seed : int
    """

    penalty: float
    per_round: int
    seed: int


def soft_cap(rows: RowSet, log_weight: str, draws: int, settings: SoftCap) -> RowSet:
    """Return the rows that are drawn at least once, with a column `TIMES`.

    Parameters
    ----------
    rows : RowSet
    log_weight : str
        SQL of a DOUBLE, finite.
    draws : int
        Number of draws in all rounds.

    Raises
    ------
    SelectionError
        If the pool has a column `TIMES`, or there would be too many rounds.
    """
    query = rows.query
    if TIMES in map(folded, query.columns):
        problem = f"`penalty` adds a column {TIMES}, which these rows have already"
        raise SelectionError(problem, "rename it in the joined file")
    file, row, hashes, weights = rows.arrays(FILE, ROW, "key_hash", log_weight)
    order = np.lexsort((row, file, hashes))  # DuckDB returns rows in any order
    times = count_draws(hashes[order], weights[order], draws, settings)
    drawn = order[times > 0]
    counted = query.new_name()
    table = {FILE: file[drawn], ROW: row[drawn], TIMES: times[times > 0]}
    query.register(counted, pa.table(table))
    columns = [FILE, ROW, "key_hash", *(quoted(e.name) for e in rows.expressions)]
    own = f"SELECT {', '.join(columns)} FROM {rows.name}"
    name = query.table(
        f"SELECT * FROM ({own}) JOIN {counted} USING ({PLACE})",
        rows.expressions,
    )
    return replace(rows, name=name, narrow=True, added=(TIMES,))


def count_draws(
    hashes: npt.NDArray[np.uint64],
    weights: npt.NDArray[np.float64],
    draws: int,
    settings: SoftCap,
) -> npt.NDArray[np.int32]:
    """Return how often each row is drawn, shape (n,).

    A round draws rows without replacement from the softmax of their log weights: those with the
    largest log weights plus Gumbel noise (Efraimidis and Spirakis, 2006). The noise depends on the
    key hash, the round and the seed only.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        Ascending.
    weights : float64 array of shape (n,)
        Log weights.
    """
    times = np.zeros(len(hashes), np.int32)
    left, round_number = draws if len(hashes) else 0, 0
    rounds = -(-left // max(1, min(settings.per_round, len(hashes))))
    if rounds > MOST_ROUNDS:
        problem = (
            f"`sample` {draws:,} with `per_round` {settings.per_round:,} takes {rounds:,} rounds"
        )
        raise SelectionError(
            problem, f"draw less, or more per round: at most {MOST_ROUNDS:,} rounds"
        )
    while left > 0:
        n = min(settings.per_round, left, len(hashes))
        noise = -np.log(-np.log(_uniform(hashes, settings.seed, round_number)))
        times[_largest(weights - settings.penalty * times + noise, n)] += 1
        left, round_number = left - n, round_number + 1
    return times


def _largest(values: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.int64]:
    """Return the indices of the n largest values; of equal ones, the first."""
    cut = np.partition(values, len(values) - n)[len(values) - n]
    above = np.flatnonzero(values > cut)
    return np.concatenate([above, np.flatnonzero(values == cut)[: n - len(above)]])


def _uniform(hashes: npt.NDArray[np.uint64], seed: int, n: int) -> npt.NDArray[np.float64]:
    """Return numbers in (0, 1), as `clipdre.sql.row_set.seeded_uniform` does for round `n`."""
    digest = hashlib.blake2b(f"round {n} {seed}".encode(), digest_size=8).digest()
    bits = hashes * np.uint64(int.from_bytes(digest, "little") | 1)
    bits ^= bits >> np.uint64(32)
    bits *= np.uint64(GOLDEN)
    return ((bits >> np.uint64(11)) + 0.5) / 2**53
