"""A list of samples made elsewhere to the rows that it names."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from clipdre.errors import SelectionError
from clipdre.formats.name_lists import ANY, NameList
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.select import Counted, Selection
from clipdre.sql.expressions import FILE, POOL, ROW
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet

# SQL of the names that a row has, and of what they are compared with in a list.
UID = "lower(lpad({}, 32, '0'))"
NAMES = {
    "pair": ("concat(shard, '/', key)", "name"),
    "key": ("key", "name"),
    "uid": (UID.format("uid"), UID.format("name")),
}


@dataclass(frozen=True)
class Listed:
    """The selection that a list names.

    Attributes
    ----------
    selection : Selection
    names, missing : int
        Distinct names of the list, and how many of them are not in the scores.
    first_missing : str
        One of these.
    """

    selection: Selection
    names: int
    missing: int
    first_missing: str


def select_listed(query: ScoreQuery, listed: NameList, said: str) -> Listed:
    """Keep the rows that a list names; a name that several rows have keeps them all.

    Raises
    ------
    SelectionError
        When it names none of the rows.
    """
    query.register("listed", pa.table({"name": listed.names}))
    kinds = list(NAMES) if listed.kind == ANY else [listed.kind]
    matches = " UNION ALL ".join(
        f"SELECT {FILE}, {ROW}, key_hash, name FROM {POOL} "
        f"JOIN (SELECT DISTINCT name FROM listed) ON {NAMES[kind][0]} = {NAMES[kind][1]}"
        for kind in kinds
    )
    found = query.table(matches)
    rows = RowSet(
        query,
        query.table(f"SELECT DISTINCT {FILE}, {ROW}, key_hash FROM {found}"),
        narrow=True,
    )
    names, missing, first = query.fetchall(
        f"SELECT (SELECT count(DISTINCT name) FROM listed), count(DISTINCT name), min(name) "
        f"FROM listed ANTI JOIN {found} USING (name)"
    )[0]
    kept, pool = rows.count(), query.manifest.rows
    if not kept:
        raise SelectionError(
            f"{said} names none of the samples of {query.folder.path}"
            + (f" (it begins with {first!r})" if first else ": it is empty")
        )
    step = Step(where=f"listed in {said}")
    counted = Counted(step, pool, kept, 0, kept, kept)
    selection = Selection(Rule((step,), name="list"), rows, pool, (counted,))
    return Listed(selection, names, missing, first or "")
