import duckdb
import pytest

from clipdre.sql.expressions import quoted
from clipdre.sql.syntax import Catalog, as_sql, changing, nodes

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


def test_nodes_are_found_at_any_depth(connection):
    sql = 'CASE WHEN A > 1 THEN list_max(["B", s.field]) END + (SELECT sum(c) FROM pool)'
    found = {node for node in nodes(connection, sql) if node.kind == "COLUMN_REF"}
    assert {(node.name, node.parts) for node in found} == {("a", 1), ("b", 1), ("s", 2), ("c", 1)}
    assert len(nodes(connection, "+".join(["x"] * 900))) == 2 * 900 - 1


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("random() < 0.5", "random()"),
        ("x > 0.1 AND (y OR RANDOM() < 0.5)", "random()"),
        ("uuid() < 'a'", "uuid()"),
        ("gen_random_uuid()::VARCHAR", "gen_random_uuid()"),
        ("now() > t", "now()"),
        ("t < current_timestamp", "current_timestamp"),
        ("t < CURRENT_DATE", "current_date"),
        ("localtime < t", "localtime"),
        ("t < today()", "today()"),
        ("t > ago(INTERVAL 1 DAY)", "current_timestamp"),
        ("age(t) > INTERVAL 1 YEAR", "age()"),
        ("user = 'x'", "user"),
        ("list_sum(list_transform([x], lambda v: v + random())) > 1", "random()"),
        ("(SELECT count(*) FROM repeat(random(), 3)) > 1", "random()"),
        ("x > (SELECT avg(x) FROM pool USING SAMPLE 10)", "a sample"),
        ("x > (SELECT avg(x) FROM pool TABLESAMPLE 10%)", "a sample"),
        ("x > (SELECT reservoir_quantile(x, 0.5, 10) FROM pool)", "reservoir_quantile()"),
        ("x > (SELECT approx_quantile(x, 0.5) FROM pool)", "approx_quantile()"),
        ("row_number() OVER (ORDER BY random()) < 5", "random()"),
    ],
)
def test_names_what_changes_from_pass_to_pass(connection, sql, what):
    found = nodes(connection, sql)
    assert changing(connection, Catalog.of(connection), found, {"x"}) == what


@pytest.mark.parametrize(
    "sql",
    [
        "x + 1 > 2 AND lower(caption) LIKE '%now%'",
        "date_trunc('year', t) > DATE '2020-01-01' OR year(t) > 2020 OR date_part('hour', t) > 3",
        "age(t, TIMESTAMP '2020-01-01') > INTERVAL 1 YEAR",
        "strftime(t, '%Y') = '2020'",
        "'random()' = x",
        "hash(x) % 10 = 0",
        "unknown_function(x)",
        "list_any_value([x]) > (SELECT quantile_cont(x, 0.5) FROM pool)",
        "current_date > 3",  # a column here
        "(SELECT max(z) FROM (SELECT x AS z FROM pool)) > 0",
    ],
)
def test_other_expressions_do_not_change(connection, sql):
    found, columns = nodes(connection, sql), {"x", "current_date"}
    assert changing(connection, Catalog.of(connection), found, columns) is None
