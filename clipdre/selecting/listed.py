"""Select the rows named in a list of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipdre.errors import SelectionError
from clipdre.formats.name_lists import NAME, NameList
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, POOL, ROW, private
from clipdre.sql.names import spelled
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet

OURS, THEIRS, ID = (private(name) for name in ("pool", "list", "id"))


@dataclass(frozen=True)
class Listed:
    """The rows named in a list.

    Attributes
    ----------
    selection : Selection
        It has more rows than the list has names if several samples share a name.
    names, missing : int
        Distinct names in the list, and how many of them are not in the scores.
    first_missing : str
        The first missing name in alphabetical order; empty if none is missing.
    """

    selection: Selection
    names: int
    missing: int
    first_missing: str


def select_listed(query: ScoreQuery, listed: NameList, source: str) -> Listed:
    """Select the rows named in a list; a name that several rows share selects all of them.

    In a list with several columns, such as key and uid, all that a row says have to match.

    Parameters
    ----------
    source : str
        Name of the list in messages.

    Raises
    ------
    SelectionError
        If the list names none of the rows.
    """
    names, total = _distinct(query, listed)
    if not total:
        raise SelectionError(f"{source} is empty", "list at least one sample")
    found = query.table(" UNION ALL ".join(_matches(query, names)))
    files = _unknown_files(query, names, found)
    if files:
        found = query.table(" UNION ALL ".join([f"FROM {found}", *_matches(query, files)]))
    rows = RowSet(
        query,
        query.table(f"SELECT DISTINCT {FILE}, {ROW}, key_hash FROM {found}"),
        narrow=True,
    )
    ((missing, first),) = query.fetchall(
        f"SELECT count(*), min(concat_ws('/', {', '.join(listed.names.column_names)})) "
        f"FROM {names} ANTI JOIN {found} USING ({ID})"
    )
    kept, pool = rows.count(), query.manifest.rows
    if not kept:
        raise SelectionError(
            f"{source} names none of the samples of {query.folder.path}, "
            f"only others such as {first!r}",
            "list keys, uids or shard/key pairs of these scores; a table has to have a header with "
            "key or uid",
        )
    step = Step(where=f"listed in {source}")
    counted = Counted(step, pool, kept, 0, kept, kept)
    selection = Selection(Rule((step,), name="list"), rows, pool, (counted,))
    return Listed(selection, total, missing, first or "")


def _distinct(query: ScoreQuery, listed: NameList) -> tuple[str, int]:
    """Return a table of the distinct names, numbered, and how many there are."""
    given = query.new_name()
    query.register(given, listed.names)
    is_name = " OR ".join(f"{c} IS NOT NULL" for c in listed.names.column_names if c != "shard")
    names = query.table(
        f"SELECT *, row_number() OVER () AS {ID} "
        f"FROM (SELECT DISTINCT * FROM {given} WHERE {is_name})"
    )
    ((total,),) = query.fetchall(f"SELECT count(*) FROM {names}")
    return names, total


def _unknown_files(query: ScoreQuery, names: str, found: str) -> str | None:
    """Return a table of the names that were not found but may be those of files, as samples.

    ``00000.tar/3.jpg`` is ``00000/3``: in a shard, the key ends at the first dot of the name.
    """
    kinds = dict(query.fetchall(f"SELECT column_name, column_type FROM (DESCRIBE {names})"))
    column = NAME if NAME in kinds else "key"
    if kinds.get(column) != "VARCHAR":
        return None
    sample = rf"regexp_replace({column}, '\.(tar|tar\.gz|tgz)/', '/')"
    files = query.table(
        rf"SELECT * REPLACE (regexp_replace({sample}, '\.[^/]*$', '') AS {column}) "
        f"FROM {names} ANTI JOIN {found} USING ({ID}) WHERE contains({column}, '.')"
    )
    return files if query.fetchall(f"SELECT 1 FROM {files} LIMIT 1") else None


def _matches(query: ScoreQuery, names: str) -> Iterator[str]:
    """Yield SQL of the named rows, for each way in which the list names them."""
    table = query.connection.table(names)
    kinds = {n: str(k) for n, k in zip(table.columns, table.types, strict=True) if n != ID}
    if NAME in kinds:
        pair = f"concat({OURS}.shard, '/', {OURS}.key)"
        for name, ours in (("key", pair), ("key", f"{OURS}.key"), ("uid", f"{OURS}.uid")):
            yield _match(names, [_equal(name, ours, f"{THEIRS}.{NAME}", kinds[NAME])])
        return
    said = ", ".join(f"{name} IS NOT NULL" for name in kinds)
    for row in query.fetchall(f"SELECT DISTINCT {said} FROM {names}"):
        yield _match(
            names,
            [
                _equal(name, f"{OURS}.{name}", f"{THEIRS}.{name}", kind)
                if is_said
                else f"{THEIRS}.{name} IS NULL"
                for (name, kind), is_said in zip(kinds.items(), row, strict=True)
            ],
        )


def _match(names: str, conditions: Sequence[str]) -> str:
    return (
        f"SELECT {FILE}, {ROW}, key_hash, {ID} FROM {POOL} AS {OURS} "
        f"JOIN {names} AS {THEIRS} ON {' AND '.join(conditions)}"
    )


def _equal(name: str, ours: str, theirs: str, kind: str) -> str:
    return f"{spelled(name, ours, kind)} = {spelled(name, theirs, kind)}"
