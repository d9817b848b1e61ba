"""What users' expressions may consist of: numbers, conditions, and texts no longer than a column's.

A query is interrupted between blocks of rows, and its memory is limited by the block. Neither limit
holds within one call of a function, and ``lpad(x, 2000000000, 'y')`` is one call. So functions that
can make something much larger than what they are given are not allowed, and neither are subqueries,
in which others could be applied to their own results again and again.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from clipdre.errors import SelectionError
from clipdre.sql.expressions import Expression


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPERATORS = "+ - * / // % ^ ** & | << >> ~ @ ~~ !~~ ~~* !~~* ~~~ ^@"
NUMBERS = """
    abs acos add asin atan atan2 bit_count cbrt ceil ceiling cos degrees divide exp floor fmod
    greatest if isfinite isinf isnan least ln log log10 log2 mod multiply nullif pi pow power
    quantile radians rank round sign sin sqrt subtract tan trunc typeof xor zscore
"""
CONDITIONS = """
    contains ends_with ilike_escape like_escape not_ilike_escape not_like_escape prefix
    regexp_full_match regexp_matches starts_with suffix
"""
OF_TEXTS = """
    ascii char_length character_length hash instr len length md5 position sha1 sha256 strlen
    strpos unicode
"""
OF_DATES = """
    date_diff date_part date_trunc datediff datepart datetrunc day dayofweek dayofyear epoch hour
    minute month second to_days to_hours to_minutes to_months to_seconds to_weeks to_years week
    year
"""
OF_LISTS = """
    array_contains array_extract array_has array_length array_position element_at list_avg
    list_contains list_count list_element list_extract list_has list_max list_min list_position
    list_sum list_value struct_extract
"""
OVER_ROWS = """
    any_value avg bool_and bool_or corr count count_star covar_pop covar_samp cume_dist dense_rank
    first first_value kurtosis lag last last_value lead max mean median min nth_value ntile
    percent_rank product quantile_cont quantile_disc row_number skewness stddev stddev_pop
    stddev_samp sum var_pop var_samp variance
"""
# These make a text, no longer than the one that they are given. A block of rows is held for each.
TEXTS = _words(
    """
    lcase left lower ltrim regexp_extract right rtrim split_part strip_accents substr substring trim
    ucase upper
    """
)
MOST_TEXTS = 16
FUNCTIONS = TEXTS | frozenset(
    " ".join((OPERATORS, NUMBERS, CONDITIONS, OF_TEXTS, OF_DATES, OF_LISTS, OVER_ROWS)).split()
)
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
NAMES = {
    "STAR": "a star",
    "SUBQUERY": "a subquery",
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
}
OTHERWISE = "compute it with another tool, and add the column with `joined`"


def check_allowed(expression: Expression, tree: str) -> None:
    """Refuse an expression with anything that is not listed above.

    Parameters
    ----------
    tree : str
        The expression as ``json_serialize_sql`` gives it.

    Raises
    ------
    SelectionError
    """
    parsed = json.loads(tree)
    if parsed["error"]:
        problem = f"cannot use {expression.option} {expression.text!r}: Parser Error"
        raise SelectionError(f"{problem}: {parsed['error_message']}", "write one expression")
    parts = list(_parts(parsed))
    for part in parts:
        if refused := _refused(part):
            meant = difflib.get_close_matches(refused, FUNCTIONS, n=1, cutoff=0.8)
            cure = f"did you mean {meant[0]}?" if meant else OTHERWISE
            raise _not_allowed(expression, refused, cure)
    texts = [part for part in parts if part.get("function_name") in TEXTS or _is_text(part)]
    if len(texts) > MOST_TEXTS:
        raise _not_allowed(expression, f"making {len(texts)} texts", f"make at most {MOST_TEXTS}")


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a tree."""
    found = [node]
    while found:  # a tree may be deep
        node = found.pop()
        if isinstance(node, dict):
            if "class" in node:
                yield node
            found += node.values()
        elif isinstance(node, list):
            found += node


def _refused(part: dict[str, Any]) -> str:
    """Return the name of a part that is not allowed, else nothing."""
    kind = part["class"]
    if kind in ("FUNCTION", "WINDOW"):
        return "" if part["function_name"] in FUNCTIONS else str(part["function_name"])
    if kind == "TYPE":
        name = str(part["type_name"]).lower().split(" ")[0]
        return "" if name in TYPES else f"type {name}"
    return "" if kind in PARTS else NAMES.get(kind, kind.lower())


def _is_text(part: dict[str, Any]) -> bool:
    is_text = str(part.get("type_name")).lower() in ("varchar", "string", "text")
    return part["type"] == "ARRAY_SLICE" or (part["class"] == "TYPE" and is_text)


def _not_allowed(expression: Expression, what: str, cure: str) -> SelectionError:
    problem = f"cannot use {expression.option} {expression.text!r}: {what} is not allowed"
    return SelectionError(problem, cure)
