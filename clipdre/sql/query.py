"""A score folder as one table: scores, measured columns, and joined files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb

from clipdre.config import TIME_LIMIT
from clipdre.core.columns import Column
from clipdre.core.scores import SCORES
from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.files.storage import real
from clipdre.formats.folders.columns import ColumnFolder, column_folders, is_current
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ColumnRecord
from clipdre.formats.folders.tables import SAMPLE_FIELDS
from clipdre.sql.allowed import check_allowed, check_parsable
from clipdre.sql.database import Database
from clipdre.sql.expressions import FILE, POOL, ROW, SCORED, Expression, Kind, quoted
from clipdre.sql.joined import join_files
from clipdre.words import one_line

NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")
# These look at the whole pool, before any filter. A macro's parameters must not be named like a
# column it meets, so they have names that no column has.
MACROS = f"""
CREATE MACRO quantile("_ x", "_ q") AS (
    SELECT quantile_cont("_ x", "_ q") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL});
CREATE MACRO zscore("_ x") AS (
    ("_ x" - (SELECT avg("_ x") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL}))
    / (SELECT stddev_pop("_ x") FILTER (NOT isnan("_ x"::DOUBLE)) FROM {POOL}));
CREATE MACRO rank("_ x") AS (
    CASE WHEN NOT isnan("_ x"::DOUBLE) THEN count("_ x") OVER (ORDER BY "_ x") END);
"""
WITH_MEASURED = "scored_and_measured"
# DuckDB's types of the sample columns that other code relies on.
TYPES = {
    **dict.fromkeys(("key", "uid", "shard", "caption"), "VARCHAR"),
    **dict.fromkeys(("offset", "nbytes"), "BIGINT"),
}
# Score files that are looked at together.
THREADS = 8
WINDOW = re.compile(r"\b(rank|over)\b", re.IGNORECASE)


class ScoreQuery(Database):
    """A score folder as one table; users' expressions are contained.

    An expression is parsed as one (no statement can follow it), consists of what
    `clipdre.sql.allowed` lists, reads only the score folder's files and the joined ones, changes no
    setting, and is interrupted after `time_limit` seconds. Measured columns lie row for row beside
    the scores and are joined by position.

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
        shards = [shard.name for shard in manifest.shards]
        with ThreadPoolExecutor(THREADS) as threads:
            files = list(threads.map(folder.checked_scores, manifest.shards))
        self.folder, self.manifest = folder, manifest
        self.joined = [real(path) for path in joined]
        self._measured, self._stale = _measured(folder, manifest)
        measured = [[str(real(c.file(shard))) for shard in shards] for c, _ in self._measured]
        scores = [str(real(file)) for file in files]
        listed = [scores, *measured, map(str, self.joined)]
        super().__init__(list(chain.from_iterable(listed)), time_limit)
        self._create_views(scores, measured)
        self.connection.execute(MACROS)
        self.connection.execute("SET lock_configuration = true")
        self.columns = [
            name for name in self.connection.view(POOL).columns if name not in (FILE, ROW)
        ]

    def _create_views(self, scores: list[str], measured: list[list[str]]) -> None:
        try:
            source = self._scored(scores, measured)
        except duckdb.Error as error:
            problem = f"cannot read the scores in {self.folder.path} ({one_line(error)})"
            raise ScoresError(problem, SCORE_AGAIN) from error
        self._check_types()
        source = join_files(self, source, self.joined)
        self.connection.execute(f"CREATE VIEW {POOL} AS SELECT * FROM {source}")

    def _scored(self, scores: list[str], measured: list[list[str]]) -> str:
        """Create views of the scores, with the measured columns beside them; return the last."""
        # Files of embeddings made elsewhere need not have the same columns. Looking at all of them
        # takes time, so this is done only then.
        mixed = not self.manifest.has_tars
        scanned = self.connection.read_parquet(scores, union_by_name=mixed)
        scanned.select(
            duckdb.StarExpression(), *(duckdb.ColumnExpression(name) for name in (FILE, ROW))
        ).create_view(SCORED)
        if measured:
            views = []
            for n, files in enumerate(measured):
                views.append(f"measured_{n}")
                self.connection.read_parquet(files).create_view(views[-1])
            aligned = " POSITIONAL JOIN ".join([SCORED, *views])
            self.connection.execute(f"CREATE VIEW {WITH_MEASURED} AS SELECT * FROM {aligned}")
        return WITH_MEASURED if measured else SCORED

    def _check_types(self) -> None:
        """Refuse sample columns of another type, which only other programs write."""
        view = self.connection.view(SCORED)
        for name, kind in zip(view.columns, map(str, view.types), strict=True):
            if TYPES.get(name, kind) != kind:
                problem = f"column {name} of the scores in {self.folder.path} is {kind}"
                raise ScoresError(f"{problem} instead of {TYPES[name]}", SCORE_AGAIN)

    def described(self) -> list[Column]:
        """Return all columns in order, with unit and meaning where they are known."""
        known = {column.name: column for column, _ in SAMPLE_FIELDS}
        known |= {score.column.name: score.column for score in SCORES}
        known |= {c.name: _column(c) for _, columns in self._measured for c in columns}
        other = "from the pool's own metadata or a joined file"
        return [known.get(name) or Column(name, "", other) for name in self.columns]

    def view(self, expressions: Sequence[Expression] = ()) -> tuple[str, bool]:
        """Create a view of the pool with a column per expression; return its name, and if narrow.

        A narrow one is a table of the rows' places, key hashes and these columns alone: an
        expression that is a window over the pool is computed only once.

        Raises
        ------
        SelectionError
            When one is not a SQL expression over the columns, or not of its kind.
        """
        pool = self.connection.view(POOL)
        columns = [self._expression(pool, expression) for expression in expressions]
        name = self.new_name()
        pool.select(duckdb.StarExpression(), *columns).create_view(name)
        if not any(WINDOW.search(expression.text) for expression in expressions):
            return name, False
        narrow = ", ".join(
            quoted(n) for n in (FILE, ROW, "key_hash", *(e.name for e in expressions))
        )
        return self.table(f"SELECT {narrow} FROM {name}", expressions), True

    def _expression(self, pool: Any, expression: Expression) -> Any:
        check_parsable(expression)
        with self.guarded([expression]):
            sql = f"SELECT {expression.text}"
            ((tree,),) = self.connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
            check_allowed(expression, tree)
            column = duckdb.SQLExpression(expression.text)
            kind = str(pool.select(duckdb.ColumnExpression(ROW), column).types[1])
        wrong = (expression.kind is Kind.CONDITION and kind != "BOOLEAN") or (
            expression.kind is Kind.NUMBER and not NUMERIC.match(kind)
        )
        if wrong:
            raise SelectionError(
                f"cannot use {expression}: it has type {kind}",
                f"use {expression.kind.value}",
            )
        if expression.kind is Kind.NUMBER:
            column = column.cast("DOUBLE")
        return column.alias(expression.name)

    def unknown_column(self, name: str) -> tuple[str, str]:
        """See `Database`; columns measured for another state of the pool are named as such."""
        if name in self._stale:
            cure = f"run the same 'clipdre measure' again: {self._stale[name]}"
            return f"column {name} was measured for another state of this pool", cure
        return super().unknown_column(name)


def _measured(
    folder: ScoreFolder, manifest: Manifest
) -> tuple[list[tuple[ColumnFolder, tuple[ColumnRecord, ...]]], dict[str, str]]:
    """Return the measured columns that are current, and the scorer of each that is not."""
    current, stale = [], dict[str, str]()
    for columns in column_folders(folder):
        record = columns.record()
        if record is None:
            continue
        if is_current(columns, record, folder, manifest):
            current.append((columns, record.columns))
        else:
            stale |= {column.name: columns.name for column in record.columns}
    return current, stale


def _column(record: ColumnRecord) -> Column:
    return Column(record.name, record.unit, record.meaning, record.better)
