"""The numbers that a page shows pairs by: scores, measured columns, and what is seen of a pair."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from clipdre.core.columns import Column
from clipdre.core.scores import ERROR_COLUMNS, MAIN_COLUMNS
from clipdre.errors import SelectionError
from clipdre.looking.edges import Axis
from clipdre.sql.expressions import POOL, private
from clipdre.sql.names import NUMERIC
from clipdre.sql.query import NO_VALUES, ScoreQuery
from clipdre.sql.row_set import RowSet
from clipdre.sql.syntax import written

MOST = 24
# Numbers that are names or places, and those that say the same as another column.
HIDDEN = re.compile(
    r"(image_)?(offset|nbytes)|key_hash|kl_contribution|log_partition_\w+|.*_group|cluster(_\w+)?"
)
WIDTH, HEIGHT, CAPTION = "width", "height", "caption"
# Looked at first.
FIRST = ("log_ratio", *(name for name in MAIN_COLUMNS if name != "log_ratio"))
SIDES = (WIDTH, HEIGHT)
# What is seen without a model: the columns it needs, its name for people, SQL, type and unit.
SEEN = (
    ((CAPTION,), "caption length", f"length({CAPTION})", "BIGINT", "characters"),
    (SIDES, "shorter side", f"least({WIDTH}, {HEIGHT})", "INTEGER", "pixels"),
    (
        SIDES,
        "aspect ratio",
        f"greatest({WIDTH}, {HEIGHT}) / least({WIDTH}, {HEIGHT})",
        "DOUBLE",
        "",
    ),
)


def axes_of(query: ScoreQuery, asked: Sequence[str] = ()) -> list[Axis]:
    """Return the numbers to show: the main scores, then `asked` columns, then the others.

    Raises
    ------
    SelectionError
        If an `asked` column does not exist, or is not a number.
    """
    pool = query.connection.view(POOL)
    kinds = dict(zip(pool.columns, map(str, pool.types), strict=True))
    for name in asked:
        if name not in query.columns:
            raise SelectionError(*query.unknown_column(name))
        if not NUMERIC.match(kinds[name]):
            raise SelectionError(f"column {name} has type {kinds[name]}", "name one of numbers")
    numbers = [n for n in query.columns if NUMERIC.match(kinds[n]) and not HIDDEN.fullmatch(n)]
    others = [n for n in numbers if n not in (*ERROR_COLUMNS, WIDTH, HEIGHT)]
    names = dict.fromkeys([*(n for n in FIRST if n in numbers), *asked, *others])
    known = {column.name: column for column in query.described()}
    scores = [
        _axis(replace(known[name], name=written(name)), name, kinds[name])
        for name in list(names)[:MOST]
    ]
    has_values = {name for name, kind in kinds.items() if kind != NO_VALUES}
    return scores + [
        _axis(Column(sql, unit, label), label, kind)
        for needs, label, sql, kind, unit in SEEN
        if has_values.issuperset(needs)
    ]


def axis_rows(query: ScoreQuery, axes: Sequence[Axis]) -> RowSet:
    """Return the whole pool, with a column for each axis."""
    name = query.new_name()
    columns = ", ".join(f"({axis.column.name})::DOUBLE AS {axis.name}" for axis in axes)
    query.connection.execute(f"CREATE VIEW {name} AS SELECT *, {columns} FROM {POOL}")
    return RowSet(query, name)


def _axis(column: Column, label: str, kind: str) -> Axis:
    name = private("axis_" + re.sub(r"[^a-z0-9]", lambda c: f"_{ord(c[0])}_", label))
    whole = "INT" in kind or kind == "BOOLEAN"
    return Axis(column, label, name, single=kind == "FLOAT", whole=whole)
