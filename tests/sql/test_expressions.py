import duckdb
import pytest

from clipdre.sql.expressions import SHOWN, Expression, Kind, quoted


@pytest.mark.parametrize("name", ["x", "select", "two words", 'a"b', '"', "a; DROP TABLE b", "Ä"])
def test_quoted_names_are_columns(name):
    assert duckdb.sql(f"SELECT 1 AS {quoted(name)}").columns == [name]


def test_messages_show_the_beginning_of_a_long_expression():
    assert str(Expression("e", "`by`", "x", Kind.NUMBER)) == "`by` 'x'"
    shown = str(Expression("e", "`by`", "x" * 10_000, Kind.NUMBER))
    assert shown == "`by` '" + "x" * (SHOWN - 1) + "..."
