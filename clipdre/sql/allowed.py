"""What users' expressions may consist of: numbers, conditions, and texts no longer than a column's.

A query is interrupted between blocks of rows, and its memory is limited by the block. Neither limit
holds within one call of a function, and ``lpad(x, 2000000000, 'y')`` is one call. So functions that
can make something much larger than what they are given are not allowed, and neither are subqueries,
in which others could be applied to their own results again and again.

An expression is evaluated in several passes, so what has another value in each is not allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Sequence

from clipdre.errors import SelectionError
from clipdre.sql.expressions import Expression, folded
from clipdre.sql.syntax import Part


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What may be called, by what it is about; the operators as DuckDB's parser names them.
BY_KIND = {
    "operators": "+ - * / // % ^ ** & | << >> ~ @ ~~ !~~ ~~* !~~* ~~~ ^@",
    "numbers": """
        abs acos add asin atan atan2 bit_count cbrt ceil ceiling cos degrees divide exp floor fmod
        greatest if isfinite isinf isnan least ln log log10 log2 mod multiply nullif pi pow power
        radians round sign sin sqrt subtract tan trunc typeof xor
    """,
    "the whole pool": "quantile rank zscore",
    "chance": "draw",
    "conditions on texts": """
        contains ends_with ilike_escape like_escape not_ilike_escape not_like_escape prefix
        regexp_full_match regexp_matches starts_with suffix
    """,
    "texts": """
        ascii char_length character_length hash instr len length md5 position sha1 sha256 strlen
        strpos unicode
    """,
    "dates": """
        date_diff date_part date_trunc datediff datepart datetrunc day dayofweek dayofyear epoch
        hour minute month second to_days to_hours to_minutes to_months to_seconds to_weeks to_years
        week year
    """,
    "lists": """
        array_contains array_extract array_has array_length array_position element_at list_avg
        list_contains list_count list_element list_extract list_has list_max list_min list_position
        list_sum list_value struct_extract
    """,
    "rows, with OVER": """
        any_value avg bool_and bool_or corr count count_star covar_pop covar_samp cume_dist
        dense_rank first first_value kurtosis lag last last_value lead max mean median min nth_value
        ntile percent_rank product quantile_cont quantile_disc row_number skewness stddev stddev_pop
        stddev_samp sum var_pop var_samp variance
    """,
    "parts of texts": """
        lcase left lower ltrim regexp_extract right rtrim split_part strip_accents substr substring
        trim ucase upper
    """,
}
FUNCTIONS = frozenset[str]().union(*map(_words, BY_KIND.values()))
# These make a text, no longer than the one they are given. A block of rows is held for each.
TEXTS = _words(BY_KIND["parts of texts"])
MOST_TEXTS = 16
# A list holds all its values for a block of rows, and as text each of them again.
MOST_LISTED = 100
TYPES = _words(
    """
    bigint bool boolean date decimal double float float4 float8 hugeint int int1 int16 int2 int32
    int4 int64 int8 integer interval long numeric real short smallint string text time timestamp
    timestamptz tinyint ubigint uhugeint uint16 uint32 uint64 uint8 uinteger usmallint utinyint
    varchar
    """
)
# Parts of an expression, as DuckDB's parser names them, that are allowed whatever they hold.
PARTS = _words("BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT OPERATOR")
CALLS = ("FUNCTION", "WINDOW")
NAMES = {
    "STAR": "a star",
    "SUBQUERY": "a subquery",
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
}
# What is asked for although it changes. Some of these look like columns.
CHANGING = _words(
    """
    age ago current_date current_localtime current_localtimestamp current_time current_timestamp
    gen_random_uuid get_current_time get_current_timestamp localtime localtimestamp now random today
    transaction_timestamp uuid uuidv4 uuidv7
    """
)
STEADY = "write a fixed value, or draw rows with `sample` or draw(p)"
# DuckDB's parser needs minutes for some thousands of these without an end, and cannot be stopped.
OPENING = "([{-+~@!"
MOST_OPENING = 1000
OTHERWISE = "compute it with another tool, and add the column with `joined`"


def check_parsable(expression: Expression) -> None:
    """Refuse an expression that the parser may take minutes for; `SelectionError`."""
    if sum(map(expression.text.count, OPENING)) > MOST_OPENING:
        problem = f"cannot use {expression}: it has too many brackets and signs"
        raise SelectionError(problem, f"use at most {MOST_OPENING:,}, or {OTHERWISE}")


def check_allowed(expression: Expression, parts: Sequence[Part], columns: Container[str]) -> None:
    """Refuse an expression with anything that is not listed above.

    Parameters
    ----------
    parts : sequence of Part
        What it consists of.
    columns : container of str
        Names of all columns in lower case.

    Raises
    ------
    SelectionError
    """
    for part in parts:
        name = folded(part.name)
        is_clock = part.is_column and name in CHANGING and name not in columns
        refused = name if is_clock else _refused(part)
        if refused in CHANGING:
            problem = f"cannot use {expression}: {refused} has another value in each pass"
            raise SelectionError(f"{problem} over the scores", STEADY)
        if refused:
            meant = difflib.get_close_matches(refused, FUNCTIONS, n=1, cutoff=0.8)
            cure = f"did you mean {meant[0]}?" if meant else OTHERWISE
            raise _not_allowed(expression, refused, cure)
    columns_read = sum(part.is_column for part in parts)
    if columns_read > MOST_LISTED and any(part.name == "list_value" for part in parts):
        what = f"a list beside {columns_read} columns"
        raise _not_allowed(expression, what, f"use at most {MOST_LISTED}")
    texts = [part for part in parts if _is_text(part)]
    if len(texts) > MOST_TEXTS:
        raise _not_allowed(expression, f"making {len(texts)} texts", f"make at most {MOST_TEXTS}")


def _refused(part: Part) -> str:
    """Return the name of a part that is not allowed, else nothing."""
    if part.kind in CALLS:
        return "" if part.name in FUNCTIONS else part.name
    if part.kind == "TYPE":
        name = part.name.lower().split(" ")[0]
        return "" if name in TYPES else f"type {name}"
    return "" if part.kind in PARTS else NAMES.get(part.kind, part.kind.lower())


def _is_text(part: Part) -> bool:
    if part.kind == "TYPE":
        return part.name.lower() in ("varchar", "string", "text")
    return part.type == "ARRAY_SLICE" or (part.kind in CALLS and part.name in TEXTS)


def _not_allowed(expression: Expression, what: str, cure: str) -> SelectionError:
    problem = f"cannot use {expression}: {what} is not allowed"
    return SelectionError(problem, cure)
