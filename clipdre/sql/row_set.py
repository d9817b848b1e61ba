"""Sets of rows of a pool, as views in the database: nothing is held but what is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.errors import ScoresError
from clipdre.sql.query import FILE, POOL, ROW, Expression, ScoreQuery, quoted

UINT64 = 2**64
PLACE = f"{FILE}, {ROW}"
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class RowSet:
    """Some rows of the pool.

    Attributes
    ----------
    query : ScoreQuery
    name : str
        Of the view or table that holds them.
    expressions : tuple of Expression
        Of users: columns of the view.
    narrow : bool
        Whether it is a table of places, key hashes and expressions alone.
    joined : bool
        Whether it is a view of a join, which keeps no order.
    """

    query: ScoreQuery
    name: str
    expressions: tuple[Expression, ...] = ()
    narrow: bool = False
    joined: bool = False

    @classmethod
    def of_pool(cls, query: ScoreQuery, expressions: Sequence[Expression]) -> RowSet:
        """All rows, with a column for each expression."""
        name, narrow = query.view(expressions)
        return cls(query, name, tuple(expressions), narrow)

    def where(self, condition: str) -> RowSet:
        """The rows for which our own `condition` is true."""
        name = self.query.new_name()
        self._all(f"CREATE VIEW {name} AS SELECT * FROM {self.name} WHERE {condition}")
        return replace(self, name=name)

    def first_per_group(self, group: str, order: str, cap: str) -> RowSet:
        """Of each `group`, the first `cap` rows by `order`; all three are our own SQL."""
        columns = [FILE, ROW, "key_hash", *(quoted(e.name) for e in self.expressions)]
        name = self.query.table(
            f"SELECT {', '.join(columns)} FROM {self.name} "
            f"QUALIFY row_number() OVER (PARTITION BY {group} ORDER BY {order}) <= {cap}",
            self.expressions,
        )
        return replace(self, name=name, narrow=True)

    def one(self, *aggregates: str, condition: str = "true") -> tuple[Any, ...]:
        """Values of our own aggregates over the rows for which `condition` is true."""
        sql = f"SELECT {', '.join(aggregates)} FROM {self.name} WHERE {condition}"
        (found,) = self._all(sql)
        return found

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Result rows of our own `sql`, where ``{rows}`` stands for this set."""
        return self._all(sql.replace("{rows}", self.name))

    def arrays(self, *columns: str, condition: str = "true") -> list[npt.NDArray[Any]]:
        """Columns (our own SQL, without nulls) of the rows for which `condition` is true."""
        sql = f"SELECT {', '.join(columns)} FROM {self.name} WHERE {condition}"
        return list(self.query.fetchnumpy(sql, self.expressions).values())

    def count(self, condition: str = "true") -> int:
        """How many rows `condition` is true for."""
        return int(self.one("count(*)", condition=condition)[0])

    def wide(self) -> RowSet:
        """The same rows with all columns of the pool."""
        if not self.narrow:
            return self
        name = self.query.new_name()
        self._all(
            f"CREATE VIEW {name} AS SELECT * FROM {POOL} SEMI JOIN {self.name} USING ({PLACE})"
        )
        return replace(self, name=name, narrow=False, joined=True)

    def batches(
        self, columns: Sequence[str] | None = None, order: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the rows' columns behind their places, in pool order or by our own `order`.

        Raises
        ------
        ScoresError
            When rows do not come in order: checked, since emission relies on it.
        """
        wanted = self.query.columns if columns is None else columns
        listed = ", ".join([FILE, ROW, *map(quoted, wanted)])
        rows = self.wide()
        by = order
        if by is None and (rows.joined or self.query.joined):  # joins keep no order, scans do
            by = PLACE
        sql = f"SELECT {listed} FROM {rows.name}" + (f" ORDER BY {by}" if by else "")
        last = -1
        for batch in self.query.stream(sql, self.expressions):
            if order is None:
                last = _checked_order(batch, last)
            yield batch

    def _all(self, sql: str) -> list[tuple[Any, ...]]:
        return self.query.fetchall(sql, self.expressions)


def _checked_order(batch: pa.RecordBatch, last: int) -> int:
    """The last place of a batch whose places ascend from `last` on."""
    places = (batch[FILE].to_numpy().astype(np.int64) << 32) + batch[ROW].to_numpy()
    if len(places) and (places[0] <= last or (np.diff(places) <= 0).any()):
        raise ScoresError("rows came out of pool order: please report this as a bug of clipdre")
    return int(places[-1]) if len(places) else last


def seeded_hash(seed: int) -> str:
    """SQL of 64 bits that order rows at random: the key hash times what the seed says, folded.

    Key hashes themselves break ties only, so that what is drawn does not depend on them.
    """
    digest = hashlib.blake2b(f"seed {seed}".encode(), digest_size=8).digest()
    first = _times("key_hash", int.from_bytes(digest, "little") | 1)
    return _times(f"xor({first}, {first} >> 32)", GOLDEN)


def _times(value: str, factor: int) -> str:
    """SQL of a product modulo 2^64."""
    return f"(({value})::UHUGEINT * {factor}::UHUGEINT & {UINT64 - 1}::UHUGEINT)::UBIGINT"
