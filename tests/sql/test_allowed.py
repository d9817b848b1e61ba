import contextlib
import re
import time

import pytest

from clipdre.errors import SelectionError
from clipdre.sql.allowed import CHANGING, FUNCTIONS, MOST_LISTED, MOST_TEXTS
from tests.sql.made_up import row_set


@pytest.mark.parametrize(
    "where",
    [
        "log_ratio > 1 AND NOT (kl_text BETWEEN 2 AND 3) OR width IN (1, 2) OR uid IS NULL",
        "caption ILIKE '%red%' AND regexp_matches(lower(caption), '^a') AND caption NOT LIKE '_'",
        "CASE WHEN length(caption) > 20 THEN kl_text ELSE -kl_text END / 2 ** 0.5 > 0",
        "log_ratio > quantile(log_ratio, 0.5) AND zscore(kl_text) > 1 AND rank(width) < 9",
        "row_number() OVER (PARTITION BY caption ORDER BY log_ratio DESC) = 1",
        "greatest(width, height)::DOUBLE / least(width, height) <= 3.0",
        "split_part(caption, ' ', 1) = 'red' AND caption[1:3] = 'red' AND try_cast(uid AS INT) > 3",
        "list_contains(['a', 'b'], caption) OR substring(caption FROM 2 FOR 3) = 'abc'",
        "date_part('year', DATE '2020-01-01') > year(TIMESTAMP '2019-01-01 00:00:00')",
        "coalesce(caption, '') <> '' AND isfinite(kl_text) AND hash(key) % 10 = 3",
    ],
)
def test_numbers_conditions_and_windows_are_allowed(query, where):
    row_set(query, where).count("where_0")


@pytest.mark.parametrize(
    ("where", "refused"),
    [
        ("length(lpad('x', 2000000000, 'y')) > 1", "lpad"),
        ("length(main.rpad('x', 2000000000, 'y')) > 1", "rpad"),
        ("length(repeat('x', 2000000000)) > 1", "repeat"),
        ("length(replace(caption, 'a', caption)) > 1", "replace"),
        ("length(regexp_replace(caption, '.', caption, 'g')) > 1", "regexp_replace"),
        ("length(caption || caption) > 1", r"\|\|"),
        ("length(format('{:2000000000d}', 1)) > 1", "format"),
        ("length(bar(1, 0, 1, 2000000000)) > 1", "bar"),
        ("len(range(1000000000)) > 1", "range"),
        ("length(string_agg(caption) OVER ()) > 1", "string_agg"),
        ("(SELECT count(*) FROM range(1000000000)) > 1", "range|a subquery"),
        ("key IN (SELECT key FROM pool)", "a subquery"),
        ("list_reduce([1], (a, b) -> a) > 1", "list_reduce|a lambda"),
        ("len([1]::INT[100000]) > 1", "type array"),
        ("len(caption::BIGNUM) > 1", "type bignum"),
        ("levenshtein(caption, caption) > 1", "levenshtein"),
        ("COLUMNS(*) > 1", "a star"),
        ("$1", "a parameter"),
        ("#1 > 1", "positional_reference"),
    ],
)
def test_what_builds_large_values_is_refused_at_once(query, where, refused):
    started = time.monotonic()
    message = rf"^cannot use `where` .*: ({refused}) is not allowed: compute it with another tool"
    with pytest.raises(SelectionError, match=message):
        row_set(query, where)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("random() < 0.5", "random"),
        ("similarity > 0.1 AND (width > 3 OR RANDOM() < 0.5)", "random"),
        ("main.random() < 0.5", "random"),
        ("uuid() < 'a'", "uuid"),
        ("now() > TIMESTAMPTZ '2020-01-01'", "now"),
        ("DATE '2020-01-01' < current_timestamp", "current_timestamp"),
        ("DATE '2020-01-01' < CURRENT_DATE", "current_date"),
        ("row_number() OVER (ORDER BY random()) < 5", "random"),
    ],
)
def test_what_changes_from_pass_to_pass_is_refused(query, where, what):
    message = rf"^cannot use `where` .*: {what} has another value in each pass over the scores: "
    with pytest.raises(SelectionError, match=message + "write a fixed value, or draw rows"):
        row_set(query, where)


def test_no_function_that_is_allowed_changes(query):
    """DuckDB's catalog says of each function, for some types of arguments or all, if it does."""
    stability = dict(
        query.fetchall(
            "SELECT function_name, bool_and(stability <> 'CONSISTENT') FROM duckdb_functions() "
            "WHERE function_type = 'scalar' GROUP BY ALL"
        )
    )
    changing = {name for name, always in stability.items() if always}
    assert {"random", "uuid", "now"} <= changing
    # Those of dates are not constant for types with a time zone, which is that of the machine.
    assert not FUNCTIONS & (changing | CHANGING | {"approx_quantile", "reservoir_quantile"})
    macros = query.fetchall(
        "SELECT function_name, macro_definition FROM duckdb_functions() "
        "WHERE function_type = 'macro'"
    )
    for name, definition in macros:
        if name in FUNCTIONS:
            words = set(re.findall(r"\w+", definition))
            assert not words & (changing | CHANGING), name


def test_every_word_that_changes_without_brackets_is_known(query):
    values = set()
    for (word,) in query.fetchall("SELECT DISTINCT function_name FROM duckdb_functions()"):
        with contextlib.suppress(SelectionError):
            row_set(query, f"{word} IS NOT NULL")
            values.add(word)
    constant = {"user", "current_user", "session_user", "current_role", "current_catalog"}
    assert values <= constant | {"current_database", "current_schema"}


def test_a_misspelt_function_gives_the_one_that_was_meant(query):
    with pytest.raises(SelectionError, match=r"lenght is not allowed: did you mean length\?"):
        row_set(query, "lenght(caption) > 3")


def test_texts_are_few(query):
    def where(n):
        return " OR ".join([f"lower(caption[1:{k}]) = 'a'" for k in range(n)])

    row_set(query, where(MOST_TEXTS // 2)).count("where_0")
    with pytest.raises(SelectionError, match=f"making 18 texts is not allowed: .* {MOST_TEXTS}"):
        row_set(query, where(MOST_TEXTS // 2 + 1))


@pytest.mark.parametrize("start", ["(", "- ", "[", "((("])
def test_brackets_without_an_end_do_not_keep_the_parser_busy(query, start):
    started = time.monotonic()
    with pytest.raises(
        SelectionError, match="it has too many brackets and signs: use at most 1,000"
    ):
        row_set(query, start * 20_000)
    with pytest.raises(SelectionError, match=r"Parser Error: syntax error"):
        row_set(query, start * 300)
    assert time.monotonic() - started < 20


def test_lists_do_not_hold_many_columns(query):
    listed = ", ".join(["caption"] * (MOST_LISTED + 1))
    with pytest.raises(SelectionError, match="a list beside 101 columns is not allowed"):
        row_set(query, f"len([{listed}]::VARCHAR) > 0")
    values = ", ".join(f"'{n}'" for n in range(500))
    assert row_set(query, f"list_contains([{values}], caption)").count("where_0") == 0


def test_a_long_list_of_words_is_allowed(query):
    words = " OR ".join(f"caption ILIKE '%word{n}%'" for n in range(300))
    assert row_set(query, words).count("where_0") == 0


def test_every_function_exists(query):
    """Under another name, it would be refused or allowed in vain."""
    sql = "SELECT function_name FROM duckdb_functions()"
    existing = {name for (name,) in query.fetchall(sql)}
    written = {"-", "if", "count_star", "position", "any_value", "nullif"}  # as parsed
    windows = {
        "cume_dist",
        "dense_rank",
        "first_value",
        "lag",
        "last_value",
        "lead",
        "nth_value",
        "ntile",
        "percent_rank",
        "row_number",
    }
    assert not FUNCTIONS - existing - written - windows
