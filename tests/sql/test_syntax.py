import duckdb
import pytest

from clipdre.sql.expressions import quoted
from clipdre.sql.syntax import as_sql, parse, with_argument

COLUMNS = {name.lower(): name for name in ("offset", "Left", "user", "rank", "true", "x", "a b")}


@pytest.fixture
def connection():
    return duckdb.connect()


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("offset", '"offset"'),
        (" LEFT ", '"Left"'),
        ("user", '"user"'),
        ("true", '"true"'),
        ("rank", '"rank"'),
        ("offset > 5", '"offset" > 5'),
        ("é > 1 AND -offset < x /* left */", 'é > 1 AND -"offset" < x /* left */'),
        ("quantile(offset, 0.5) > Left", 'quantile("offset", 0.5) > "Left"'),
        # What SQL can read stays as it is.
        ("left(y, 3) = 'offset'", "left(y, 3) = 'offset'"),
        ("x > 1 AND true", "x > 1 AND true"),
        ("row_number() OVER (ORDER BY x)", "row_number() OVER (ORDER BY x)"),
        ("a b", "a b"),
        ("1", "1"),
        ("limit > 5", "limit > 5"),  # not a column
    ],
)
def test_a_column_may_have_the_name_of_a_keyword(text, sql):
    assert as_sql(text, COLUMNS) == sql


@pytest.mark.parametrize(
    "template", ["{}", "{} > 3", "3 < {} AND {} < 9", "-{} * 2 + {}", "{} IN (5)", "abs({}) = 5"]
)
def test_almost_all_keywords_can_be_columns(connection, template):
    keywords = connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()
    columns = {word: word for (word,) in keywords}
    listed = ", ".join(f"5 AS {quoted(word)}" for word in columns)
    connection.execute(f"CREATE TABLE t AS SELECT {listed}")
    beyond = {"true", "false", "null", "default", "and", "in"} if template != "{}" else set()
    for word in columns.keys() - beyond:
        sql = as_sql(template.replace("{}", word), {word: word})
        expected = template.replace("{}", quoted(word))
        same = f"SELECT ({sql}) = ({expected}) FROM t"
        assert connection.execute(same).fetchall() == [(True,)], sql


def test_parts_are_found_at_any_depth(connection):
    sql = 'CASE WHEN A > 1 THEN list_max(["B", s.field]) END + (SELECT sum(c) FROM pool)'
    assert {p.name for p in parse(connection, sql) if p.is_column} == {"A", "B", "s", "c"}
    assert len(parse(connection, "+".join(["x"] * 900))) == 2 * 900 - 1
    with pytest.raises(duckdb.ParserException, match="syntax error"):
        parse(connection, "x +")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("draw(0.5)", "draw(U, 0.5)"),
        ("é > 1 AND NOT DRAW (draw(x))", "é > 1 AND NOT DRAW (U, draw(U, x))"),
        ("x = 'draw(1)' /* draw(2) */", "x = 'draw(1)' /* draw(2) */"),
        ("withdraw(1) + draw", "withdraw(1) + draw"),
    ],
)
def test_only_calls_have_another_argument(sql, expected):
    assert with_argument(sql, "draw", "U") == expected
