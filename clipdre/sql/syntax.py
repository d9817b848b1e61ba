"""What a user's expression says: which columns it reads, and whether its value can change."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import duckdb

from clipdre.sql.expressions import quoted

WORD, KEYWORD = re.compile(r"[^\W\d]\w*"), re.compile(rb"\w+")
# Columns, functions and samples of an expression, at any depth.
NODES = """
SELECT value ->> 'class', lower(coalesce(value ->> 'function_name', value ->> '$.column_names[0]')),
    json_array_length(coalesce(value -> 'arguments', value -> 'column_names'))
FROM json_tree(json_serialize_sql($1))
WHERE type = 'OBJECT' AND (value ->> 'class' IN ('FUNCTION', 'COLUMN_REF') OR key = 'sample')
"""
# Functions that have another value in each pass. Some have it only for types with a time zone.
CHANGING = """
SELECT function_name, len(parameters) FROM duckdb_functions() WHERE function_type = 'scalar'
GROUP BY ALL HAVING bool_and(stability <> 'CONSISTENT')
"""
MACROS = """
SELECT function_name, macro_definition FROM duckdb_functions() WHERE function_type = 'macro'
"""
# DuckDB calls these consistent, but they read the clock or draw samples.
CHANGING_TOO = {
    ("age", 1),
    ("approx_quantile", 2),
    ("approx_top_k", 2),
    ("reservoir_quantile", 2),
    ("reservoir_quantile", 3),
}


class Catalog(NamedTuple):
    """Functions of a database whose value may change.

    Attributes
    ----------
    changing : frozenset of (str, int)
        Name and number of arguments of functions that have another value in each pass.
    macros : dict
        Definitions of each macro, which may use such functions.
    """

    changing: frozenset[tuple[str, int]]
    macros: dict[str, list[str]]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> Catalog:
        """Read the catalog, which takes longer than to check an expression."""
        changing = CHANGING_TOO.union(connection.execute(CHANGING).fetchall())
        macros: dict[str, list[str]] = {}
        for name, definition in connection.execute(MACROS).fetchall():
            macros.setdefault(name, []).append(definition)
        return cls(frozenset(changing), macros)


class Node(NamedTuple):
    """A part of an expression.

    Attributes
    ----------
    kind : str or None
        ``FUNCTION`` or ``COLUMN_REF``; None for a sample of a table.
    name : str
        In lower case. For a column with parts, such as a field of a struct, the first.
    parts : int
        Number of arguments, or of parts of the column.
    """

    kind: str | None
    name: str
    parts: int


def as_sql(text: str, columns: Mapping[str, str]) -> str:
    """Return an expression as SQL, in which a bare column name is that column.

    Parameters
    ----------
    columns : mapping
        Columns by their names in lower case.
    """
    name = text.strip()
    if WORD.fullmatch(name) and name.lower() in columns:
        return quoted(columns[name.lower()])
    try:
        duckdb.SQLExpression(text)
    except duckdb.ParserException:  # a column may have the name of a keyword
        return _with_quoted_keywords(text, columns)
    return text


def _with_quoted_keywords(text: str, columns: Mapping[str, str]) -> str:
    data, end = text.encode(), 0
    parts = []
    for start, kind in duckdb.tokenize(text):  # places are those of bytes
        word = KEYWORD.match(data, start)
        if kind == duckdb.token_type.keyword and word and word[0].decode().lower() in columns:
            parts += [data[end:start], b'"', word[0], b'"']
            end = word.end()
    return b"".join([*parts, data[end:]]).decode()


def tree(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return how DuckDB parses SQL of an expression, as JSON."""
    ((parsed,),) = connection.execute("SELECT json_serialize_sql($1)", [f"SELECT {sql}"]).fetchall()
    return str(parsed)


def nodes(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Node]:
    """Return the columns, functions and samples in SQL of an expression."""
    return [Node(*row) for row in connection.execute(NODES, [f"SELECT {sql}"]).fetchall()]


def changing(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    found: Sequence[Node],
    columns: Container[str],
) -> str | None:
    """Return what has another value in each pass over the rows, None if nothing does.

    Parameters
    ----------
    catalog : Catalog
        Of the same database.
    found : sequence of Node
        `nodes` of the expression.
    columns : container of str
        Names of all columns in lower case.
    """
    pending, expanded = list(found), set[str]()
    while pending:
        node = pending.pop()
        if node.kind is None:
            return "a sample"
        if node.kind == "COLUMN_REF":
            # Some functions look like columns: current_date, user.
            if node.parts == 1 and node.name not in columns and _is_value(connection, node.name):
                return node.name
        elif (node.name, node.parts) in catalog.changing:
            return f"{node.name}()"
        elif node.name not in expanded:
            expanded.add(node.name)
            for definition in catalog.macros.get(node.name, []):
                pending += nodes(connection, definition)
    return None


def _is_value(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    try:
        connection.execute(f"SELECT {quoted(name)}").fetchall()
    except duckdb.Error:
        return False
    return True
