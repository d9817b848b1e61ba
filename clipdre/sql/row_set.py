"""Sets of rows of a pool, as views in the database; only what is asked for is held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.errors import ScoresError, SelectionError
from clipdre.sql.expressions import FILE, POOL, ROW, Expression, folded, quoted
from clipdre.sql.query import ScoreQuery

UINT64 = 2**64
PLACE = f"{FILE}, {ROW}"
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class RowSet:
    """Rows of the pool.

    Attributes
    ----------
    query : ScoreQuery
    name : str
        Name of the view or table that holds them.
    expressions : tuple of Expression
        Users' expressions: columns of the view.
    narrow : bool
        Whether it is a table of places, key hashes and expressions only.
    joined : bool
        Whether it is a view of a join, which does not keep the order.
    added : tuple of str
        Columns of a narrow set that the pool does not have, such as how often a row was drawn.
    """

    query: ScoreQuery
    name: str
    expressions: tuple[Expression, ...] = ()
    narrow: bool = False
    joined: bool = False
    added: tuple[str, ...] = ()

    @classmethod
    def of_pool(cls, query: ScoreQuery, expressions: Sequence[Expression]) -> RowSet:
        """Return all rows, with a column for each expression."""
        name, narrow = query.view(expressions)
        return cls(query, name, tuple(expressions), narrow)

    def where(self, condition: str) -> RowSet:
        """Return the rows for which our own `condition` is true."""
        name = self.query.new_name()
        self._all(f"CREATE VIEW {name} AS SELECT * FROM {self.name} WHERE {condition}")
        return replace(self, name=name)

    def first_per_group(self, group: str, order: str, cap: str) -> RowSet:
        """Return the first `cap` rows of each `group` by `order`; all three are our own SQL."""
        kept = (*(e.name for e in self.expressions), *self.added)
        columns = [FILE, ROW, "key_hash", *map(quoted, kept)]
        name = self.query.table(
            f"SELECT {', '.join(columns)} FROM {self.name} "
            f"QUALIFY row_number() OVER (PARTITION BY {group} ORDER BY {order}) <= {cap}",
            self.expressions,
        )
        return replace(self, name=name, narrow=True)

    def one(self, *aggregates: str, condition: str = "true") -> tuple[Any, ...]:
        """Return our own aggregates over the rows for which `condition` is true."""
        sql = f"SELECT {', '.join(aggregates)} FROM {self.name} WHERE {condition}"
        (found,) = self._all(sql)
        return found

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the result of our own `sql`, in which ``{rows}`` stands for this set."""
        return self._all(sql.replace("{rows}", self.name))

    def arrays(self, *columns: str, condition: str = "true") -> list[npt.NDArray[Any]]:
        """Return columns (our own SQL, no nulls) of the rows for which `condition` is true."""
        sql = f"SELECT {', '.join(columns)} FROM {self.name} WHERE {condition}"
        return list(self.query.fetchnumpy(sql, self.expressions).values())

    def count(self, condition: str = "true") -> int:
        """Count the rows for which `condition` is true."""
        return int(self.one("count(*)", condition=condition)[0])

    def wide(self) -> RowSet:
        """Return the same rows with all columns of the pool."""
        if not self.narrow:
            return self
        name = self.query.new_name()
        join = f"SEMI JOIN {self.name}"
        if self.added:
            join = f"JOIN (SELECT {PLACE}, {', '.join(self.added)} FROM {self.name})"
        self._all(f"CREATE VIEW {name} AS SELECT * FROM {POOL} {join} USING ({PLACE})")
        return replace(self, name=name, narrow=False, joined=True)

    def batches(
        self, columns: Sequence[str] | None = None, order: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches of places and columns, in pool order or by our own `order`.

        Raises
        ------
        ScoresError
            When rows do not come in order, which emission relies on.
        """
        wanted = self._columns if columns is None else columns
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

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of the rows in pool order, without their places; None is all.

        Raises
        ------
        SelectionError
            If there is no such column.
        """
        wanted = self._columns if columns is None else list(columns)
        known = {folded(name) for name in self._columns}
        if odd := [name for name in wanted if folded(name) not in known]:
            raise SelectionError(*self.query.unknown_column(odd[0]))
        batches = list(self.batches(wanted))
        if not batches:  # the types of columns are those of no rows
            sql = (
                f"SELECT {', '.join(map(quoted, wanted)) or 'NULL'} FROM {self.wide().name} LIMIT 0"
            )
            return self.query.connection.sql(sql).to_arrow_table()
        return pa.Table.from_batches(batches).drop_columns([FILE, ROW])

    @property
    def _columns(self) -> list[str]:
        return [*self.query.columns, *self.added]

    def _all(self, sql: str) -> list[tuple[Any, ...]]:
        return self.query.fetchall(sql, self.expressions)


def _checked_order(batch: pa.RecordBatch, last: int) -> int:
    """Check that places ascend from `last` on; return the last place of the batch."""
    places = (batch[FILE].to_numpy().astype(np.int64) << 32) + batch[ROW].to_numpy()
    if len(places) and (places[0] <= last or (np.diff(places) <= 0).any()):
        raise ScoresError("rows came out of pool order", "please report this as a bug in clipdre")
    return int(places[-1]) if len(places) else last


def seeded_uniform(seed: int, use: str = "seed") -> str:
    """Return SQL of a number in (0, 1) for each row, from `seeded_hash`."""
    return f"((({seeded_hash(seed, use)} >> 11)::DOUBLE + 0.5) / {2**53})"


def seeded_hash(seed: int, use: str = "seed") -> str:
    """Return SQL of 64 bits that order rows at random; those of two uses are independent.

    They are the key hash times 64 odd bits of the seed's hash, folded, times the golden ratio, all
    modulo 2^64. Plain key hashes only break ties, so draws do not depend on them.
    """
    digest = hashlib.blake2b(f"{use} {seed}".encode(), digest_size=8).digest()
    first = _times("key_hash", int.from_bytes(digest, "little") | 1)
    return _times(f"xor({first}, {first} >> 32)", GOLDEN)


def _times(value: str, factor: int) -> str:
    """Return SQL of a product modulo 2^64."""
    return f"(({value})::UHUGEINT * {factor}::UHUGEINT & {UINT64 - 1}::UHUGEINT)::UBIGINT"
