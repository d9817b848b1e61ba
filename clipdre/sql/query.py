"""SQL over a score folder's columns: DuckDB with files, network and settings shut."""

from __future__ import annotations

import difflib
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy.typing as npt
import pyarrow as pa

from clipdre.config import TIME_LIMIT
from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest

# DuckDB's own columns of a Parquet scan: position of the file in the list, of the row in its file.
FILE, ROW = "file_index", "file_row_number"
POOL = "pool"
NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")
MEMORY_LIMIT = "1GB"
# Over the whole pool, whatever has been filtered before. The parameters' names are ones that no
# column has: a macro's parameter must differ from the columns that it meets.
MACROS = f"""
CREATE MACRO quantile("_ x", "_ q") AS (
    SELECT quantile_cont("_ x", "_ q") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL});
CREATE MACRO zscore("_ x") AS (
    ("_ x" - (SELECT avg("_ x") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL}))
    / (SELECT stddev_pop("_ x") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL}));
CREATE MACRO rank("_ x") AS (
    CASE WHEN NOT isnan("_ x"::DOUBLE) THEN count("_ x") OVER (ORDER BY "_ x") END);
"""
WINDOW = re.compile(r"\b(rank|over)\b", re.IGNORECASE)


class Kind(Enum):
    """What an expression has to be."""

    CONDITION = "a condition"
    NUMBER = "a number: rank by a score"
    VALUE = "a value"


@dataclass(frozen=True)
class Expression:
    """A user's expression: the column it becomes, the option that gave it, its text."""

    name: str
    option: str
    text: str
    kind: Kind


class ScoreQuery:
    """A score folder as one table; expressions come from users and are contained.

    An expression is parsed as one (no statement can follow it), reads nothing but the score files
    and the joined ones, changes no setting, and ends after `time_limit` seconds. What does not fit
    into memory is kept in a temporary folder.

    Parameters
    ----------
    joined : sequence of Path
        Parquet files whose columns are joined to the rows by key.
    time_limit : float
        Seconds that one pass over the scores may take.
    """

    def __init__(
        self,
        folder: ScoreFolder,
        manifest: Manifest,
        joined: Sequence[Path] = (),
        time_limit: float = TIME_LIMIT,
    ) -> None:
        files = [folder.scores(shard.name).resolve() for shard in manifest.shards]
        missing = next((file for file in files if not file.exists()), None)
        if missing is not None:
            raise ScoresError(f"{missing} is missing: run the same 'clipdre score' again")
        self.folder, self.manifest = folder, manifest
        self.joined = [path.resolve() for path in joined]
        self.time_limit = time_limit
        self._numbers = count(1)
        names = [str(file) for file in files]
        self._connection = _contained([*names, *map(str, self.joined)])
        scanned = self._connection.read_parquet(names)
        scanned.select(
            duckdb.StarExpression(), *(duckdb.ColumnExpression(name) for name in (FILE, ROW))
        ).create_view("scored")
        self._connection.execute(f"CREATE VIEW {POOL} AS SELECT * FROM {self._with_joined()}")
        self._connection.execute(MACROS)
        self._connection.execute("SET lock_configuration = true")
        self.columns: list[str] = [
            name for name in self._connection.view(POOL).columns if name not in (FILE, ROW)
        ]

    def view(self, expressions: Sequence[Expression] = ()) -> tuple[str, bool]:
        """Name of a view of the pool with a column for each expression, and whether it is narrow.

        Narrow is a table that holds the places of the rows, their key hashes and these columns
        alone: where an expression is a window over the pool, it is computed once.

        Raises
        ------
        SelectionError
            When one is no SQL expression over the columns, or not of its kind.
        """
        pool = self._connection.view(POOL)
        columns = [self._column(pool, expression) for expression in expressions]
        name = self.new_name()
        pool.select(duckdb.StarExpression(), *columns).create_view(name)
        if not any(WINDOW.search(expression.text) for expression in expressions):
            return name, False
        narrow = ", ".join(
            f'"{n}"' for n in (FILE, ROW, "key_hash", *(e.name for e in expressions))
        )
        return self.table(f"SELECT {narrow} FROM {name}", expressions), True

    def _column(self, pool: Any, expression: Expression) -> Any:
        with self._guarded([expression]):
            column = duckdb.SQLExpression(expression.text)
            kind = str(pool.select(duckdb.ColumnExpression(ROW), column).types[1])
        wrong = (expression.kind is Kind.CONDITION and kind != "BOOLEAN") or (
            expression.kind is Kind.NUMBER and not NUMERIC.match(kind)
        )
        if wrong:
            raise SelectionError(
                f"{expression.option} {expression.text!r} cannot be used: it is of type {kind}, "
                f"not {expression.kind.value}"
            )
        if expression.kind is Kind.NUMBER:
            column = column.cast("DOUBLE")
        return column.alias(expression.name)

    def new_name(self) -> str:
        """A name that no view or table has yet."""
        return f"rows_{next(self._numbers)}"

    def table(self, sql: str, expressions: Sequence[Expression] = ()) -> str:
        """The result of our own `sql`, kept; returns the table's name."""
        name = self.new_name()
        self.fetchall(f"CREATE TABLE {name} AS {sql}", expressions)
        return name

    def fetchall(self, sql: str, expressions: Sequence[Expression] = ()) -> list[tuple[Any, ...]]:
        """Rows of the result of our own `sql`, in which columns may be users' `expressions`."""
        with self._guarded(expressions):
            found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
            return found

    def fetchnumpy(
        self, sql: str, expressions: Sequence[Expression] = ()
    ) -> dict[str, npt.NDArray[Any]]:
        """Columns of the result of our own `sql`, which holds no nulls."""
        with self._guarded(expressions):
            found: dict[str, npt.NDArray[Any]] = self._connection.execute(sql).fetchnumpy()
            return found

    def stream(self, sql: str, expressions: Sequence[Expression] = ()) -> Iterator[pa.RecordBatch]:
        """Batches of the result of our own `sql`; no other query may run until the last is had."""
        with self._guarded(expressions):
            reader = pa.RecordBatchReader.from_stream(self._connection.sql(sql))
        while True:
            with self._guarded(expressions):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    def register(self, name: str, table: Any) -> None:
        """Copy an Arrow table into the database."""
        self._connection.register(f"{name}_given", table)
        self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_given")
        self._connection.unregister(f"{name}_given")

    @contextmanager
    def _guarded(self, expressions: Sequence[Expression]) -> Iterator[None]:
        """Interrupt what takes too long; DuckDB's complaints as one line that names the cure."""
        timer = threading.Timer(self.time_limit, self._connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        except duckdb.Error as error:
            said = " ".join(f"{e.option} {e.text!r}" for e in expressions) or "the selection"
            raise SelectionError(f"{said} cannot be used: {self._reason(error)}") from error
        finally:
            timer.cancel()
            timer.join()  # a thread that outlives its query may meet the end of the interpreter

    def _reason(self, error: duckdb.Error) -> str:
        if isinstance(error, duckdb.InterruptException):
            return (
                f"it took longer than {self.time_limit:g} s: make it simpler, or give --time-limit"
            )
        reason = str(error).splitlines()[0]
        if isinstance(error, duckdb.OutOfMemoryException):
            return (
                f"it needs more memory or temporary disk than there is ({reason}): make it simpler"
            )
        if "GROUP BY" in reason:
            return "an aggregate such as sum(x) tells of all rows at once: write sum(x) OVER ()"
        unknown = re.search(r'column "([^"]+)" not found', reason)
        if not unknown:
            return reason
        name = unknown.group(1)
        close = difflib.get_close_matches(name, self.columns, n=1)
        hint = (
            f"did you mean {close[0]}?" if close else f"the columns are {', '.join(self.columns)}"
        )
        return f"there is no column {name}; {hint}"

    def _with_joined(self) -> str:
        """The scored rows, with the columns of the joined files beside them."""
        source, seen = "scored", set(self._connection.view("scored").columns)
        for n, path in enumerate(self.joined):
            source, seen = self._join(source, seen, n, path)
        return source

    def _join(self, source: str, seen: set[str], n: int, path: Path) -> tuple[str, set[str]]:
        try:
            self._connection.read_parquet(str(path)).create_view(f"file_{n}")
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise SelectionError(f"--with {path} cannot be read as Parquet: {reason}") from error
        found = self._connection.view(f"file_{n}").columns
        keys = next((keys for keys in JOINS if set(keys) <= set(found)), None)
        if keys is None:
            raise SelectionError(
                f"--with {path} has no column to join by: it needs key_hash, shard and key, uid, "
                "or key"
            )
        ((repeated,),) = self.fetchall(
            f"SELECT count(*) - count(DISTINCT ({', '.join(keys)})) FROM file_{n}"
        )
        if repeated:
            raise SelectionError(
                f"--with {path} names {repeated:,} rows more than once by {' and '.join(keys)}: "
                "which of them counts?"
            )
        new = {name: name if name not in seen else f"{path.stem}_{name}" for name in found}
        taken = [name for name in found if name not in keys and new[name] not in seen]
        columns = "".join(f", joined.{quoted(c)} AS {quoted(new[c])}" for c in taken)
        on = " AND ".join(f"so_far.{key} = joined.{key}" for key in keys)
        self._connection.execute(
            f"CREATE VIEW joined_{n} AS SELECT so_far.*{columns} FROM {source} so_far "
            f"LEFT JOIN file_{n} joined ON {on}"
        )
        return f"joined_{n}", seen | {new[name] for name in taken}

    def quantiles(self, column: str, probabilities: Sequence[float]) -> list[float]:
        """Quantiles of a column over all rows."""
        return [float(v) for v in self._one(f"quantile_cont({column}, {list(probabilities)})")]

    def total(self, column: str) -> float:
        """Sum of a column over all rows."""
        return float(self._one(f"sum({column})"))

    def share(self, condition: str) -> float:
        """Share of rows for which our own `condition` is true."""
        return float(self._one(f"avg(CAST(({condition}) AS INT))"))

    def errors(self, column: str) -> tuple[float, float, float, float]:
        """Mean and standard deviation of a column, its mean standard error, its reliability.

        Reliability as in `clipdre.core.reliability`, out of core.
        """
        value, se = f"{column}::DOUBLE", f"{column}_se::DOUBLE"
        sql = f"SELECT avg({value}), stddev_pop({value}), avg({se}), avg({se} * {se}) FROM scored"
        ((mean, spread, mean_se, mean_square),) = self.fetchall(sql)
        reliability = 1 - mean_square / spread**2 if spread > 0 else float("nan")
        return mean, spread, mean_se, reliability

    def _one(self, expression: str) -> Any:
        ((value,),) = self.fetchall(f"SELECT {expression} FROM scored")
        return value


# A joined file's rows are found by the first of these that it has.
JOINS = (("key_hash",), ("shard", "key"), ("uid",), ("key",))


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _contained(files: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A database that may read `files` and nothing else, in bounded memory."""
    spill = tempfile.mkdtemp(prefix="clipdre-")
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    weakref.finalize(connection, shutil.rmtree, spill, ignore_errors=True)
    connection.execute("SET temp_directory = $1", [spill])
    connection.execute("SET memory_limit = $1", [MEMORY_LIMIT])
    connection.execute("SET enable_external_file_cache = false")
    # A Parquet file's statistics know nothing of NaN: where the other values of a column are all
    # equal, DuckDB would take it for a constant and drop the conditions that ask for NaN.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    connection.execute("SET allowed_paths = $1", [list(files)])
    connection.execute("SET enable_external_access = false")
    return connection
