import duckdb
import pytest

from clipdre.sql.expressions import quoted


@pytest.mark.parametrize("name", ["x", "select", "two words", 'a"b', '"', "a; DROP TABLE b", "Ä"])
def test_quoted_names_are_columns(name):
    assert duckdb.sql(f"SELECT 1 AS {quoted(name)}").columns == [name]
