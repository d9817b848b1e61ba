"""A DuckDB that reads the files it is given and nothing else, in bounded time and memory."""

from __future__ import annotations

import glob
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.cpus import usable_cpus
from clipdre.errors import OutputError, ScoresError, SelectionError, UsageError
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.files.storage import is_utf8
from clipdre.formats.files.tables import is_csv
from clipdre.formats.tars.samples import printable
from clipdre.sql.expressions import Expression
from clipdre.words import closest, one_line

MEMORY_LIMIT = "1GB"
# Errors of a query; those of a stream come through Arrow.
FAILED = (duckdb.Error, pa.ArrowException, OSError)
# Seconds until a query that goes on is interrupted again.
AGAIN = 0.1
# Seconds after which one that still goes on is stuck.
STUCK = 2.0
NAMES = {**dict.fromkeys(("key", "uid", "shard"), "VARCHAR"), "key_hash": "UBIGINT"}
UNKNOWN_COLUMN = re.compile(r'column "([^"]+)" not found')


class Database:
    """A contained database; users' expressions are guarded, our own SQL is trusted.

    What does not fit into memory is kept in a temporary folder.

    Parameters
    ----------
    files : sequence of str
        The only files that SQL may open.
    time_limit : float
        Seconds that one query may take.

    Raises
    ------
    SelectionError
        If the path of a file is not UTF-8.
    """

    def __init__(self, files: Sequence[str], time_limit: float) -> None:
        if not time_limit > 0:
            raise UsageError(f"`time_limit` {time_limit:g} is no time", "use seconds above 0")
        odd = next((file for file in files if not is_utf8(file)), None)
        if odd is not None:
            raise SelectionError(f"the path {printable(odd)} is not UTF-8", "rename it")
        self.time_limit = time_limit
        self.columns: list[str] = []
        self.connection = _contained(files)
        self._numbers = count(1)

    def new_name(self) -> str:
        """Return a name that no view or table has yet."""
        return f"rows_{next(self._numbers)}"

    def scan(self, files: Sequence[str], *, by_name: bool = False) -> Any:
        """Return the rows of Parquet or CSV files; if `by_name`, columns may differ in type."""
        escaped = [glob.escape(f) for f in files]
        if not is_csv(files[0]):
            return self.connection.read_parquet(escaped, union_by_name=by_name)
        # Types are those of all rows, so that none is found later that does not fit.
        options = {"header": True, "sample_size": -1, "union_by_name": by_name}
        columns = self.connection.read_csv(escaped, **options).columns
        # Names of samples may look like numbers, and hashes are larger than DuckDB's usual ones.
        fixed = {name: NAMES[name.lower()] for name in columns if name.lower() in NAMES}
        return self.connection.read_csv(escaped, dtype=fixed, **options)

    def table(self, sql: str, expressions: Sequence[Expression] = ()) -> str:
        """Keep the result of our own `sql`; return the table's name."""
        name = self.new_name()
        self.fetchall(f"CREATE TABLE {name} AS {sql}", expressions)
        return name

    def fetchall(self, sql: str, expressions: Sequence[Expression] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of our own `sql`, in which columns may be users' `expressions`."""
        with self.guarded(expressions):
            found: list[tuple[Any, ...]] = self.connection.execute(sql).fetchall()
            return found

    def fetchnumpy(
        self, sql: str, expressions: Sequence[Expression] = ()
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of our own `sql`, whose result holds no nulls."""
        with self.guarded(expressions):
            found: dict[str, npt.NDArray[Any]] = self.connection.execute(sql).fetchnumpy()
        if any(isinstance(values, np.ma.MaskedArray) for values in found.values()):
            raise ScoresError("the scores have rows without a key hash", SCORE_AGAIN)
        return found

    def stream(self, sql: str, expressions: Sequence[Expression] = ()) -> Iterator[pa.RecordBatch]:
        """Yield batches of our own `sql`; no other query may run until the last one is read."""
        with self.guarded(expressions):
            reader = pa.RecordBatchReader.from_stream(self.connection.sql(sql))
        while True:
            with self.guarded(expressions):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    def register(self, name: str, table: Any) -> None:
        """Copy an Arrow table into the database."""
        self.connection.register(f"{name}_given", table)
        self.connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_given")
        self.connection.unregister(f"{name}_given")

    @contextmanager
    def guarded(self, expressions: Sequence[Expression]) -> Iterator[None]:
        """Interrupt what takes too long; turn DuckDB's errors into one line with a cure."""
        done, late = threading.Event(), threading.Event()
        watch = threading.Thread(target=self._interrupt, args=(done, late), daemon=True)
        watch.start()
        try:
            yield
        except FAILED as error:
            used = ", ".join(map(str, expressions)) or "the selection"
            reason, cure = self._explained(error, late.is_set())
            raise SelectionError(f"cannot use {used}: {reason}", cure) from error
        finally:
            done.set()
            watch.join()  # a thread that outlives its query may meet the end of the interpreter

    def _interrupt(self, done: threading.Event, late: threading.Event) -> None:
        """Interrupt a query that is not done in time, until it ends: it may not have begun yet."""
        wait, tries = min(self.time_limit, threading.TIMEOUT_MAX), 0
        while not done.wait(wait):
            late.set()
            self.connection.interrupt()
            wait, tries = AGAIN, tries + 1
            if tries * AGAIN > STUCK:
                self.stuck()

    def stuck(self) -> None:
        """React to a query that goes on after interrupts, as it may within one call of a function.

        Does nothing here: Python users have to wait for it.
        """

    def _explained(self, error: Exception, late: bool) -> tuple[str, str]:
        """Return the reason of an error, and the cure."""
        if late:
            reason = f"it took longer than {self.time_limit:g} s"
            return reason, "simplify it, or raise `time_limit`"
        reason = one_line(error)
        if "Out of Memory" in reason:  # a stream's errors have Arrow's types
            return (
                f"it needs more memory or temporary disk than available ({reason})",
                "simplify it",
            )
        if "GROUP BY" in reason:
            return "an aggregate such as sum(x) covers all rows", "write sum(x) OVER ()"
        if unknown := UNKNOWN_COLUMN.search(reason):
            return self.unknown_column(unknown[1])
        return reason, ""

    def unknown_column(self, name: str) -> tuple[str, str]:
        """Return why there is no such column, and the cure."""
        cure = closest(name, self.columns) or "see 'clipdre info SCORES' for the columns"
        return f"there is no column {name}", cure


def _contained(files: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """Open a database that may read `files` and nothing else, in bounded memory."""
    try:
        spill = tempfile.mkdtemp(prefix="clipdre-")
    except OSError as error:
        problem = f"cannot make a temporary folder ({one_line(error)})"
        raise OutputError(problem, "set TMPDIR to a folder with space") from error
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )
    weakref.finalize(connection, shutil.rmtree, spill, ignore_errors=True)
    connection.execute("SET temp_directory = $1", [spill])
    connection.execute("SET memory_limit = $1", [MEMORY_LIMIT])
    connection.execute("SET threads = $1", [usable_cpus()])
    connection.execute("SET enable_external_file_cache = false")
    # A Parquet file's statistics ignore NaN. DuckDB would use them to drop conditions and to skip
    # rows: among values 2, 2 and NaN, isnan(x) and x > 3 would find nothing.
    connection.execute("SET parquet_can_have_nan = true")  # new in DuckDB 2.0.1
    # DuckDB takes every path for a glob pattern, and checks it too.
    allowed = {*files, *map(glob.escape, files)}
    connection.execute("SET allowed_paths = $1", [sorted(allowed)])
    connection.execute("SET enable_external_access = false")
    return connection
