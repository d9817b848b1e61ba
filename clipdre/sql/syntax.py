"""What a user's expression says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import duckdb

from clipdre.sql.expressions import folded, quoted

WORD, WORD_BYTES = re.compile(r"[^\W\d]\w*"), re.compile(rb"\w+")
# Names that need no quotes, unless they are keywords.
PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
ERROR = "ERROR"
# A tree may be deeper than Python's JSON decoder can go.
PARTS = f"""
SELECT coalesce(value ->> 'class', '{ERROR}'), coalesce(value ->> 'type', ''),
    coalesce(value ->> 'function_name', value ->> '$.column_names[0]', value ->> 'type_name',
        value ->> 'error_message', '')
FROM json_tree(json_serialize_sql($1))
WHERE type = 'OBJECT' AND (value ->> 'class' IS NOT NULL OR value ->> 'error' = 'true')
"""


class Part(NamedTuple):
    """A part of an expression, in the words of DuckDB's parser.

    Attributes
    ----------
    kind : str
        Class, such as ``FUNCTION``, ``COLUMN_REF`` or ``TYPE``.
    type : str
        Operator or the like, within its class.
    name : str
        Of the function, the column (the first of its parts), or the type; empty for others.
    """

    kind: str
    type: str
    name: str

    @property
    def is_column(self) -> bool:
        """Whether it reads a column, or a field of one."""
        return self.kind == "COLUMN_REF"


def as_sql(text: str, columns: Mapping[str, str]) -> str:
    """Return an expression as SQL, in which a bare column name is that column.

    Parameters
    ----------
    columns : mapping
        Columns by their names in lower case.
    """
    name = text.strip()
    if WORD.fullmatch(name) and folded(name) in columns:
        return quoted(columns[folded(name)])
    try:
        duckdb.SQLExpression(text)
    except duckdb.ParserException:  # a column may have the name of a keyword
        return _with_quoted_keywords(text, columns)
    return text


def _with_quoted_keywords(text: str, columns: Mapping[str, str]) -> str:
    data, end = text.encode(), 0
    parts = []
    for start, kind in duckdb.tokenize(text):  # places are those of bytes
        word = WORD_BYTES.match(data, start)
        if kind == duckdb.token_type.keyword and word and folded(word[0].decode()) in columns:
            parts += [data[end:start], b'"', word[0], b'"']
            end = word.end()
    return b"".join([*parts, data[end:]]).decode()


def with_argument(sql: str, function: str, argument: str) -> str:
    """Return SQL in which each call of a function has another argument, before its own."""
    data, end = sql.encode(), 0
    parts = []
    for (start, kind), (after, _) in pairwise(duckdb.tokenize(sql)):
        word = WORD_BYTES.match(data, start)
        is_call = kind == duckdb.token_type.identifier and data[after : after + 1] == b"("
        if word and is_call and folded(word[0].decode()) == function:
            parts += [data[end : after + 1], f"{argument}, ".encode()]
            end = after + 1
    return b"".join([*parts, data[end:]]).decode()


def parse(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Part]:
    """Return the parts of SQL of an expression, at any depth.

    Raises
    ------
    duckdb.ParserException
    """
    parts = [Part(*row) for row in connection.execute(PARTS, [f"SELECT {sql}"]).fetchall()]
    for part in parts:
        if part.kind == ERROR:
            raise duckdb.ParserException(f"Parser Error: {part.name}")
    return parts


def written(name: str) -> str:
    """Return a column's name as people have to write it: in quotes if it is a keyword, or odd."""
    keyword = any(kind == duckdb.token_type.keyword for _, kind in duckdb.tokenize(name))
    return name if PLAIN.fullmatch(name) and not keyword else quoted(name)
