"""Names of samples as SQL compares them: tools write one name in several ways."""

from __future__ import annotations

import re

from clipdre.formats.uids import DIGITS, UID

NUMERIC = re.compile(r"^(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*|BOOLEAN)$")


def spelled(name: str, column: str, kind: str) -> str:
    """Return SQL of a name in one spelling, the same in the scores and in a table to match.

    A uid may have capitals or lack leading zeros. A key or shard that the table holds as a number
    has lost its leading zeros.

    Parameters
    ----------
    name : str
        ``key_hash``, ``shard``, ``key`` or ``uid``.
    column : str
        SQL of the column.
    kind : str
        Type of the column in the table to match.
    """
    if name == "key_hash":
        return column
    text = f"{column}::VARCHAR"
    if name == "uid":
        short = f"lower(lpad({text}, {DIGITS}, '0'))"
        # Most uids are spelled like this, and this is fast to see.
        usual = f"strlen({text}) = {DIGITS} AND {text} = lower({text})"
        return (
            f"CASE WHEN {usual} THEN {text} WHEN regexp_matches({text}, '{UID}') THEN {short} "
            f"ELSE {text} END"
        )
    if NUMERIC.match(kind):
        return f"ltrim(regexp_replace({text}, '\\.0$', ''), '0')"
    return text
