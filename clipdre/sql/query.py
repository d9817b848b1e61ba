"""A score folder as one table: scores, measured columns, and joined files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb

from clipdre.config import TIME_LIMIT, JoinKey
from clipdre.core.columns import Column
from clipdre.core.scores import declared
from clipdre.errors import ScoresError, SelectionError
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.files.storage import real
from clipdre.formats.files.tables import expand_tables
from clipdre.formats.folders.columns import (
    CAPTION_SOURCE,
    ColumnFolder,
    column_folders,
    is_current,
    row_digests,
    stamped_digests,
)
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.kept import kept_described
from clipdre.formats.folders.manifest import Manifest, is_own_manifest
from clipdre.formats.folders.records import ColumnRecord
from clipdre.formats.folders.tables import SAMPLE_FIELDS
from clipdre.sql.allowed import check_allowed, check_parsable
from clipdre.sql.database import Database
from clipdre.sql.expressions import (
    FILE,
    POOL,
    ROW,
    SCORED,
    Expression,
    Kind,
    check_names,
    folded,
    private,
    quoted,
)
from clipdre.sql.joined import WITH, join_files
from clipdre.sql.names import NUMERIC
from clipdre.sql.syntax import as_sql, parse, with_argument
from clipdre.words import one_line

# These look at the whole pool, before any filter. A macro's parameters must not be named like a
# column it meets.
X, Q, CHANCE = private("x"), private("q"), private("chance")
UNITS = float(2**60)
# True with a given probability; its first argument is added to what users write.
DRAW = "draw"
# Mean and deviation of the finite values. Sums of floats depend on their order, which differs from
# run to run, so the sums are of integers: each value in units of 2^-60 of the largest.
MOMENTS = f"""
    WITH finite AS (SELECT {X}::DOUBLE AS x FROM {POOL} WHERE isfinite({X}::DOUBLE)),
    scale AS (SELECT count(*) AS n, max(abs(x)) AS top FROM finite),
    centre AS (
        SELECT coalesce(sum(round(x / nullif(top, 0) * {UNITS})::HUGEINT)::DOUBLE, 0)
            / {UNITS} * any_value(top) / any_value(n) AS mean
        FROM finite, scale),
    far AS (SELECT max((x - mean) ** 2) AS top FROM finite, centre),
    spread AS (
        SELECT sqrt(sum(round((x - mean) ** 2 / nullif(far.top, 0) * {UNITS})::HUGEINT)::DOUBLE
            / {UNITS} * any_value(far.top) / any_value(n)) AS deviation
        FROM finite, centre, far, scale)
"""
MACROS = f"""
CREATE MACRO quantile({X}, {Q}) AS (
    SELECT quantile_cont({X}, {Q}) FILTER (NOT isnan({X}::DOUBLE)) FROM {POOL});
CREATE MACRO zscore({X}) AS (
    ({X} - ({MOMENTS} SELECT mean FROM centre)) / ({MOMENTS} SELECT deviation FROM spread));
CREATE MACRO {DRAW}({CHANCE}, {X}) AS (
    CASE WHEN NOT isnan({X}::DOUBLE) THEN {CHANCE} < {X}::DOUBLE END);
CREATE MACRO rank({X}) AS (
    CASE WHEN NOT isnan({X}::DOUBLE) THEN count({X}) OVER (ORDER BY {X}) END);
"""
WITH_MEASURED = "scored_and_measured"
# DuckDB's types of the sample columns that other code relies on.
TYPES = {
    **dict.fromkeys(("key", "uid", "shard", "caption"), "VARCHAR"),
    **dict.fromkeys(("offset", "nbytes", "image_offset", "image_nbytes"), "BIGINT"),
}
NO_VALUES = '"NULL"'
WINDOW = re.compile(r"\b(rank|zscore|over)\b", re.IGNORECASE)


class ScoreQuery(Database):
    """A score folder as one table; users' expressions are contained.

    An expression is parsed as one (no statement can follow it), consists of what
    `clipdre.sql.allowed` lists, reads only the score folder's files and the joined ones, changes no
    setting, and is interrupted after `time_limit` seconds. Measured columns lie row for row beside
    the scores and are joined by position.

    Parameters
    ----------
    joined : sequence of paths
        Parquet or CSV files, folders and glob patterns, whose columns are joined to the rows.
    time_limit : float
        Seconds that one pass over the scores may take.
    on : JoinKey or None
        Names to match joined rows by; None for the first that the files have.

    Attributes
    ----------
    joined : list of Path
        The joined files.
    joins : list of Join
        How many pairs found a row in them, for each table: files that have the same columns.
    """

    def __init__(
        self,
        folder: ScoreFolder,
        manifest: Manifest,
        joined: Sequence[str | Path] = (),
        time_limit: float = TIME_LIMIT,
        on: JoinKey | None = None,
    ) -> None:
        shards = [shard.name for shard in manifest.shards]
        digests = stamped_digests(folder, manifest.shards)
        self.folder, self.manifest = folder, manifest
        _refuse_score_folders(joined)
        self.joined = expand_tables(joined, WITH)
        self._measured, self._stale = _measured(folder, manifest, digests)
        # A shard without rows says nothing about the types of columns.
        filled = [shard.name for shard in manifest.shards if shard.rows] or shards
        measured = [[str(real(c.file(shard))) for shard in filled] for c, _ in self._measured]
        scores = [str(real(folder.scores(shard))) for shard in shards]
        listed = [scores, *measured, map(str, self.joined)]
        super().__init__(list(chain.from_iterable(listed)), time_limit)
        try:
            source = self._pool_view(scores, measured)
        except duckdb.Error as error:
            problem = f"cannot read the scores in {folder.path} ({one_line(error)})"
            raise ScoresError(problem, SCORE_AGAIN) from error
        self._check_types()
        source, self.joins = join_files(self, source, self.joined, on, shards)
        self.connection.execute(f"CREATE VIEW {POOL} AS SELECT * FROM {source}")
        self.connection.execute(MACROS)
        self.connection.execute("SET lock_configuration = true")
        self.columns = [
            name for name in self.connection.view(POOL).columns if name not in (FILE, ROW)
        ]

    def _pool_view(self, scores: list[str], measured: list[list[str]]) -> str:
        """Show scores and measured columns as one view; return its name."""
        # Files of embeddings made elsewhere need not have the same columns. Looking at all of them
        # takes time, so this is done only then.
        scanned = self.scan(scores, by_name=not self.manifest.has_tars)
        check_names(scanned.columns, f"score folder {self.folder.path}")
        scanned.select(
            duckdb.StarExpression(), *(duckdb.ColumnExpression(name) for name in (FILE, ROW))
        ).create_view(SCORED)
        if measured:
            views = []
            for n, files in enumerate(measured):
                views.append(f"measured_{n}")
                columns = self.scan(files)
                check_names(columns.columns, files[0])
                columns.create_view(views[-1])
            aligned = " POSITIONAL JOIN ".join([SCORED, *views])
            self.connection.execute(f"CREATE VIEW {WITH_MEASURED} AS SELECT * FROM {aligned}")
        return WITH_MEASURED if measured else SCORED

    def _check_types(self) -> None:
        """Refuse sample columns of another type, which only other programs write."""
        view = self.connection.view(SCORED)
        for name, kind in zip(view.columns, map(str, view.types), strict=True):
            if kind not in (TYPES.get(name, kind), NO_VALUES):
                problem = f"column {name} of the scores in {self.folder.path} is {kind}"
                raise ScoresError(f"{problem} instead of {TYPES[name]}", SCORE_AGAIN)

    def described(self) -> list[Column]:
        """Return all columns in order, with unit and meaning where they are known."""
        known = {column.name: column for column, _ in SAMPLE_FIELDS}
        known |= declared(self.manifest.model.inner_product)
        known[CAPTION_SOURCE.name] = CAPTION_SOURCE
        known |= kept_described(self.manifest.reading.keep)
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
        known = {folded(name): name for name in pool.columns}
        with self.guarded([expression]):
            sql = as_sql(expression.text, known)
            parts = parse(self.connection, sql)
            check_allowed(expression, parts, known)
            column = duckdb.SQLExpression(with_argument(sql, DRAW, expression.chance))
            kind = str(pool.select(duckdb.ColumnExpression(ROW), column).types[1])
        self._warn_of_namesakes(expression, {folded(p.name) for p in parts if p.is_column})
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

    def _warn_of_namesakes(self, expression: Expression, names: set[str]) -> None:
        """Warn if a column that an expression reads is also in a joined file, under a new name."""
        for join in self.joins:
            for old, new in join.renamed.items():
                if folded(old) in names and folded(new) not in names:
                    warnings.warn(
                        f"{expression.option} reads {old} of the scores; that of {join} is "
                        f"{quoted(new)}",
                        stacklevel=5,
                    )

    def unknown_column(self, name: str) -> tuple[str, str]:
        """See `Database`; columns measured for another state of the pool are named as such."""
        if name in self._stale:
            cure = f"run the same 'clipdre measure' again: {self._stale[name]}"
            return f"column {name} was measured for another state of this pool", cure
        return super().unknown_column(name)


def _refuse_score_folders(joined: Sequence[str | Path]) -> None:
    """Refuse to join all tables of a score folder, which are of many kinds."""
    for place in joined:
        if is_own_manifest(Path(place)):
            raise SelectionError(
                f"{WITH} {place} is a score folder", f"name its scores: {Path(place) / 'scores'}"
            )


def _measured(
    folder: ScoreFolder, manifest: Manifest, stamped: Sequence[str | None]
) -> tuple[list[tuple[ColumnFolder, tuple[ColumnRecord, ...]]], dict[str, str]]:
    """Return the measured columns that are current, and the scorer of each that is not."""
    current, stale = [], dict[str, str]()
    found = [(columns, columns.record()) for columns in column_folders(folder)]
    digests = row_digests(folder, manifest.shards, stamped) if found else []
    for columns, record in found:
        if record is None:
            continue
        if is_current(columns, record, manifest, digests):
            current.append((columns, record.columns))
        else:
            stale |= {column.name: columns.name for column in record.columns}
    return current, stale


def _column(record: ColumnRecord) -> Column:
    return Column(record.name, record.unit, record.meaning, record.better)
