"""Parquet files whose columns are joined to the scored rows by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from clipdre.errors import SelectionError
from clipdre.formats.files.storage import is_utf8
from clipdre.sql.database import Database
from clipdre.sql.expressions import quoted
from clipdre.words import count, one_line

# A joined file's rows are matched by the first of these that it has.
KEYS = (("key_hash",), ("shard", "key"), ("uid",), ("key",))
WITH = "`joined`"


def join_files(database: Database, source: str, files: Sequence[Path]) -> str:
    """Join the columns of `files` to the view `source`; return the name of the widest view.

    Raises
    ------
    SelectionError
        When a file is not Parquet, has no key, or has a key twice.
    """
    # SQL does not tell upper case from lower case.
    seen = {name.lower() for name in database.connection.view(source).columns}
    for n, path in enumerate(files):
        source, seen = _join(database, source, seen, n, path)
    return source


def _join(
    database: Database, source: str, seen: set[str], n: int, path: Path
) -> tuple[str, set[str]]:
    view, joined = f"file_{n}", f"joined_{n}"
    if not path.is_file() or not is_utf8(path):
        raise SelectionError(
            f"{WITH} {path} is not a file with a UTF-8 path", "name a Parquet file"
        )
    try:
        database.connection.read_parquet(str(path)).create_view(view)
    except duckdb.Error as error:
        reason = one_line(error)
        problem = f"cannot read {WITH} {path} as Parquet: {reason}"
        raise SelectionError(problem, "name a Parquet file") from error
    found = database.connection.view(view).columns
    keys = next((keys for keys in KEYS if set(keys) <= set(found)), None)
    if keys is None:
        raise SelectionError(
            f"{WITH} {path} has no column to join by",
            "add key_hash, shard and key, uid, or key",
        )
    ((repeated,),) = database.fetchall(
        f"SELECT count(*) - count(DISTINCT ({', '.join(keys)})) FROM {view}"
    )
    if repeated:
        raise SelectionError(
            f"{WITH} {path} names {count(repeated, 'row')} more than once by {' and '.join(keys)}",
            "keep one row for each",
        )
    new = {name: name if name.lower() not in seen else f"{path.stem}_{name}" for name in found}
    taken = [name for name in found if name not in keys and new[name].lower() not in seen]
    columns = "".join(f", joined.{quoted(c)} AS {quoted(new[c])}" for c in taken)
    on = " AND ".join(f"so_far.{key} = joined.{key}" for key in keys)
    database.connection.execute(
        f"CREATE VIEW {joined} AS SELECT so_far.*{columns} FROM {source} so_far "
        f"LEFT JOIN {view} joined ON {on}"
    )
    return joined, seen | {new[name].lower() for name in taken}
