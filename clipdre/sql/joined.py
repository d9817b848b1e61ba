"""Parquet files whose columns are joined to the scored rows by name."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from clipdre.config import JoinKey
from clipdre.errors import SelectionError
from clipdre.formats.tars.places import shard_name, shard_of_file
from clipdre.only_with import OnlyWith, check
from clipdre.sql.database import Database
from clipdre.sql.expressions import FILE, check_names, folded, literal, private, quoted
from clipdre.sql.names import spelled
from clipdre.words import one_line

WITH = "`joined`"
PAIRINGS = (OnlyWith("on", ("joined",), because="whose rows it matches"),)
ROWS, POOL_SIDE, FILE_SIDE = (private(name) for name in ("rows", "pool", "file"))


@dataclass(frozen=True)
class Join:
    """What came of joining files that have the same columns.

    Attributes
    ----------
    files : tuple of str
        Their paths.
    by : tuple of str
        Names that rows were matched by.
    pool, matched : int
        Number of pairs in the pool, and how many of them found a row.
    renamed : dict
        Columns of the files that the scores have too, and what they are called instead.
    """

    files: tuple[str, ...]
    by: tuple[str, ...]
    pool: int
    matched: int
    renamed: dict[str, str]

    def __str__(self) -> str:
        return _label([Path(file).name for file in self.files])


class _Table(NamedTuple):
    """Files that have the same columns.

    Attributes
    ----------
    files : list of str
    columns : dict
        Columns by their names in lower case: SQL does not tell them from upper case.
    shards : list of str or None
        The shard that each file has the name of, and whose rows it has.
    """

    files: list[str]
    columns: dict[str, str]
    shards: list[str | None]

    def __str__(self) -> str:
        return f"{WITH} {_label(self.files)}"

    def choices(self) -> list[JoinKey]:
        """Return what rows can be matched by, the most specific first."""
        known = {*self.columns, *(["shard"] if any(self.shards) else [])}
        return [key for key in JoinKey if known.issuperset(key.names)]


class _View(NamedTuple):
    """A table as a view, and the condition by which its rows match those of the pool."""

    name: str
    by: tuple[str, ...]
    names: list[str]
    condition: str


def join_files(
    database: Database,
    source: str,
    files: Sequence[Path],
    on: JoinKey | None,
    shards: Sequence[str],
) -> tuple[str, list[Join]]:
    """Join the columns of `files` to the view `source`; return the widest view, and what matched.

    Files that have the same columns are one table. A column that the scores have too gets a prefix:
    the name of its file, or of the folder if there are several files.

    Parameters
    ----------
    on : JoinKey or None
        Names to match rows by; None for the first that a table has.
    shards : sequence of str
        Names of the pool's shards. Files of such names, as img2dataset writes them, belong to them.

    Raises
    ------
    UsageError
        If `on` is given without files.
    SelectionError
        If a file is not Parquet or lacks the names to match by, two tables have a column of the
        same name, or a table has several rows for a pair, or no row for any pair.
    """
    check({"on": on, "joined": files}, PAIRINGS)
    own = {folded(name) for name in database.connection.view(source).columns}
    owners = dict.fromkeys(own, "the scores")
    joins = []
    for table in _tables(database, files, shards):
        by = _key(table, on).names
        names = _new_names(table, by, own, owners)
        view = _file_view(database, table, by)
        pool, matched = _matches(database, source, table, view)
        columns = "".join(f", {FILE_SIDE}.{quoted(c)} AS {quoted(n)}" for c, n in names.items())
        joined = database.new_name()
        database.fetchall(
            f"CREATE VIEW {joined} AS SELECT {POOL_SIDE}.*{columns} "
            f"FROM {source} AS {POOL_SIDE} LEFT JOIN {view.name} AS {FILE_SIDE} ON {view.condition}"
        )
        source = joined
        renamed = {column: name for column, name in names.items() if column != name}
        joins.append(Join(tuple(table.files), by, pool, matched, renamed))
    return source, joins


def _tables(database: Database, files: Sequence[Path], shards: Sequence[str]) -> list[_Table]:
    """Put files together that have the same columns."""
    groups: dict[frozenset[str], _Table] = {}
    for file in map(str, files):
        columns = {folded(name): name for name in _scan(database, [file]).columns}
        table = groups.setdefault(frozenset(columns), _Table([], columns, []))
        table.files.append(file)
    names = frozenset(shards)
    return [
        table._replace(shards=[shard_of_file(file, names) for file in table.files])
        for table in groups.values()
    ]


def _scan(database: Database, files: list[str]) -> Any:
    try:
        return database.scan(files, by_name=True)
    except duckdb.Error as error:
        reason = one_line(error)
        problem = f"cannot read {WITH} {_label(files)} as Parquet: {reason}"
        raise SelectionError(problem, "name a Parquet file") from error


def _key(table: _Table, on: JoinKey | None) -> JoinKey:
    """Return what to match rows by."""
    if on is None:
        if keys := table.choices():
            return keys[0]
        cure = "add key_hash, shard and key, uid, or key"
        raise SelectionError(f"{table} has no column to join by", cure)
    # What the user says about files is true of them, even if no shard has their name.
    missing = [name for name in on.names if name not in {*table.columns, "shard"}]
    if missing:
        problem = f"{table} has no column {missing[0]} to join by"
        raise SelectionError(problem, "set another `on`, or add the column")
    return on


def _new_names(
    table: _Table, by: Sequence[str], own: Container[str], owners: dict[str, str]
) -> dict[str, str]:
    """Return the columns to join, and the name that each gets; enter the names in `owners`."""
    first = Path(table.files[0])
    prefix = first.stem if len(table.files) == 1 else first.parent.name
    taken = [column for name, column in table.columns.items() if name not in by]
    names = {c: f"{prefix}_{c}" if folded(c) in own else c for c in taken}
    check_names([*table.columns.values(), *names.values()], str(table))
    for name in names.values():
        if owner := owners.get(folded(name)):
            raise SelectionError(
                f"{table} has a column {name}, and so has {owner}",
                "rename one of them, or give both files the same columns",
            )
        owners[folded(name)] = str(table)
    return names


def _file_view(database: Database, table: _Table, by: tuple[str, ...]) -> _View:
    """Show a table with the names to match by in one spelling."""
    scanned = _scan(database, table.files)
    kinds = dict(zip(table.columns, map(str, scanned.types), strict=True))
    rows, view = database.new_name(), database.new_name()
    scanned.select(duckdb.StarExpression(), duckdb.ColumnExpression(FILE)).create_view(rows)
    names, conditions, columns = [], [], ""
    for name in by:
        kind, column = kinds.get(name, "VARCHAR"), quoted(name)
        if name not in kinds:  # the name of the file is that of the shard
            owners = zip(table.shards, table.files, strict=True)
            listed = ", ".join(literal(shard or shard_name(file)) for shard, file in owners)
            column = f"([{listed}])[{FILE}::BIGINT + 1]"
        names.append(private(name))
        columns += f", {spelled(name, column, kind)} AS {names[-1]}"
        ours = spelled(name, f"{POOL_SIDE}.{quoted(name)}", kind)
        conditions.append(f"{ours} = {FILE_SIDE}.{names[-1]}")
    database.fetchall(f"CREATE VIEW {view} AS SELECT *{columns} FROM {rows}")
    return _View(view, by, names, " AND ".join(conditions))


def _matches(database: Database, source: str, table: _Table, view: _View) -> tuple[int, int]:
    """Return the number of pairs, and how many have a row."""
    names = ", ".join(view.names)
    ((pool, matched, rows),) = database.fetchall(
        f"SELECT (SELECT count(*) FROM {source}), count(*), coalesce(sum({ROWS}), 0) "
        f"FROM {source} AS {POOL_SIDE} JOIN "
        f"(SELECT {names}, count(*) AS {ROWS} FROM {view.name} GROUP BY ALL) AS {FILE_SIDE} "
        f"ON {view.condition}"
    )
    words = " and ".join(view.by)
    if rows > matched:
        others = " or ".join(key for key in table.choices() if key.names != view.by)
        raise SelectionError(
            f"{table} has several rows for one pair by {words}: {rows - matched:,} too many",
            (f"set `on` to {others}, or " if others else "") + "keep one row for each",
        )
    if pool and not matched:
        found = database.fetchall(f"SELECT concat_ws('/', {names}) FROM {view.name} LIMIT 1")
        but = f"only others such as {found[0][0]!r}" if found else "since it is empty"
        raise SelectionError(
            f"{table} names none of the pairs by {words}, {but}",
            "join files of this pool, or set another `on`",
        )
    return pool, matched


def _label(files: Sequence[str]) -> str:
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return f"{files[0]}{more}"
