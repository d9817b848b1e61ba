"""Select the rows named in a list of samples."""

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

# For each kind of name: its SQL in the scores, and in the list.
UID = "lower(lpad({}, 32, '0'))"
NAMES = {
    "pair": ("concat(shard, '/', key)", "name"),
    "key": ("key", "name"),
    "uid": (UID.format("uid"), UID.format("name")),
}


@dataclass(frozen=True)
class Listed:
    """The rows named in a list.

    Attributes
    ----------
    selection : Selection
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

    Parameters
    ----------
    source : str
        Name of the list in messages.

    Raises
    ------
    SelectionError
        If the list names none of the rows.
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
        if not names:
            raise SelectionError(f"{source} is empty", "list at least one sample")
        raise SelectionError(
            f"{source} names none of the samples of {query.folder.path}, "
            f"only others such as {first!r}",
            "list keys, uids or shard/key pairs of these scores",
        )
    step = Step(where=f"listed in {source}")
    counted = Counted(step, pool, kept, 0, kept, kept)
    selection = Selection(Rule((step,), name="list"), rows, pool, (counted,))
    return Listed(selection, names, missing, first or "")
