import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.formats.uids import canonical_uid
from clipdre.sql.names import spelled

HEX = st.text("0123456789abcdefABCDEF", max_size=40)


@given(st.lists(HEX | st.text(max_size=40), min_size=1))
def test_uids_are_spelled_as_in_python(uids):
    sql = spelled("uid", "unnest($1::VARCHAR[])", "VARCHAR")
    assert duckdb.execute(f"SELECT {sql}", [uids]).fetchall() == [(canonical_uid(u),) for u in uids]


@pytest.mark.parametrize(
    ("kind", "mine", "theirs", "same"),
    [
        ("BIGINT", "'000012'", "12", True),
        ("DOUBLE", "'000012'", "12.0", True),
        ("BIGINT", "'0'", "0", True),
        ("BIGINT", "'000012'", "120", False),
        ("BIGINT", "'x12'", "12", False),
        ("VARCHAR", "'000012'", "'12'", False),
        ("VARCHAR", "'Ab'", "'ab'", False),
    ],
)
def test_numbers_have_lost_their_zeros(kind, mine, theirs, same):
    both = (spelled("key", column, kind) for column in (mine, f"{theirs}::{kind}"))
    assert duckdb.execute(f"SELECT {' = '.join(both)}").fetchall() == [(same,)]
