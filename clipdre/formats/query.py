"""SQL over a score folder's columns: DuckDB with files, network and settings shut."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.manifest import Manifest
from clipdre.formats.score_folder import ScoreFolder

# DuckDB's own columns of a Parquet scan: position of the file in the list, of the row in its file.
FILE, ROW = "file_index", "file_row_number"
NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")


@dataclass(frozen=True)
class Rows:
    """Rows of a score folder, in pool order.

    Attributes
    ----------
    shard : int64 array of shape (n,)
        Index of the row's shard in the manifest.
    row : int64 array of shape (n,)
        Index of the row in its shard's score file.
    value : float64 array of shape (n,) or None
        What the rows are ranked by; NaN where it is null.
    key_hash : uint64 array of shape (n,)
    """

    shard: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64] | None
    key_hash: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, indices: npt.NDArray[np.int64]) -> Rows:
        """The rows at `indices`."""
        value = None if self.value is None else self.value[indices]
        return Rows(self.shard[indices], self.row[indices], value, self.key_hash[indices])


class ScoreQuery:
    """A score folder as one table; expressions come from users and are contained.

    An expression is parsed as one (no statement can follow it), reads nothing but the score files,
    and changes no setting.
    """

    def __init__(self, folder: ScoreFolder, manifest: Manifest) -> None:
        files = [folder.scores(shard.name).resolve() for shard in manifest.shards]
        missing = next((file for file in files if not file.exists()), None)
        if missing is not None:
            raise ScoresError(f"{missing} is missing: run the same 'clipdre score' again")
        self._connection = duckdb.connect(
            config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        names = [str(file) for file in files]
        self._connection.execute("SET allowed_paths = $1", [names])
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._table = self._connection.read_parquet(names)
        self.columns: list[str] = list(self._table.columns)

    def rows(self, where: str | None = None, by: str | None = None) -> Rows:
        """Rows for which the condition `where` is true, with the value of the expression `by`.

        Raises
        ------
        SelectionError
            When either is no SQL expression over the columns, `where` no condition, `by` no number.
        """
        table = self._table
        columns = [duckdb.ColumnExpression(name) for name in (FILE, ROW, "key_hash")]
        if where is not None:
            with self._explained("--where", where):
                table = table.filter(duckdb.SQLExpression(where))
        if by is not None:
            with self._explained("--by", by):
                expression = duckdb.SQLExpression(by)
                kind = str(table.select(expression).types[0])
            if not NUMERIC.match(kind):
                raise SelectionError(f"--by {by} is of type {kind}, not a number: rank by a score")
            columns.append(expression.cast("DOUBLE").alias("value"))
        with self._explained("--where" if where else "--by", where or by or ""):
            found = table.select(*columns).fetchnumpy()
        value = found.get("value")
        rows = Rows(
            shard=np.asarray(found[FILE], dtype=np.int64),
            row=np.asarray(found[ROW], dtype=np.int64),
            value=None if value is None else np.ma.filled(value.astype(np.float64), np.nan),
            key_hash=np.asarray(found["key_hash"], dtype=np.uint64),
        )
        return rows.take(np.lexsort((rows.row, rows.shard)))

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
        se = f"{column}_se"
        mean, spread, mean_se, mean_square = (
            float(self._one(f"{expression}::DOUBLE"))
            for expression in (
                f"avg({column})",
                f"stddev_pop({column}::DOUBLE)",
                f"avg({se})",
                f"avg({se}::DOUBLE * {se})",
            )
        )
        reliability = 1 - mean_square / spread**2 if spread > 0 else float("nan")
        return mean, spread, mean_se, reliability

    def _one(self, expression: str) -> Any:
        ((value,),) = self._table.aggregate(expression).fetchall()
        return value

    @contextmanager
    def _explained(self, option: str, expression: str) -> Iterator[None]:
        """DuckDB's complaints as one line that names the cure."""
        try:
            yield
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            unknown = re.search(r'column "([^"]+)" not found', reason)
            if unknown:
                name = unknown.group(1)
                close = difflib.get_close_matches(name, self.columns, n=1)
                hint = f"did you mean {close[0]}?" if close else "the columns are"
                listed = "" if close else f" {', '.join(self.columns)}"
                reason = f"there is no column {name}; {hint}{listed}"
            raise SelectionError(f"{option} {expression!r} cannot be used: {reason}") from error
