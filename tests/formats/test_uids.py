import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.formats.uids import UidFile, uid_digits


def written(*batches):
    file = UidFile(sum(map(len, batches)))
    for batch in batches:
        file.add(pa.array(batch, pa.string()))
    out = io.BytesIO()
    file.write(out)
    out.seek(0)
    return np.load(out, allow_pickle=False), file.without


def test_uids_are_sorted_unique_and_padded():
    uids = ["f" * 32, "1", "0" * 31 + "1", None, "not hex", "10000000000000000", "f" * 33, ""]
    array, without = written(uids)
    assert array.tolist() == [(0, 1), (1, 0), (2**64 - 1, 2**64 - 1)]
    assert array.dtype == np.dtype("u8,u8")
    assert without == 4


def test_no_uids_give_an_empty_file():
    for batches in ([], [[]], [[None]]):
        array, without = written(*batches)
        assert array.shape == (0,)
        assert without == sum(map(len, batches))


@pytest.mark.parametrize(
    "other", [" " * 32, "é" * 32, "é" * 16, "f" * 30 + " f", "g" * 32, "0x" + "f" * 30]
)
def test_lookalikes_of_32_digits_are_rejected(other):
    array, without = written(["a" * 32, other])
    assert array.tolist() == [divmod(int("a" * 32, 16), 2**64)]
    assert without == 1


@given(st.lists(st.lists(st.integers(0, 2**128 - 1), max_size=5), max_size=5), st.booleans())
def test_files_match_datacomps_own_code_and_read_back(batches, padded):
    """DataComp writes `divmod(int(uid, 16), 2**64)`, sorted and unique."""
    text = [[f"{n:032x}" if padded else f"{n:x}" for n in batch] for batch in batches]
    array, _ = written(*text)
    expected = {divmod(int(uid, 16), 2**64) for batch in text for uid in batch}
    assert array.tolist() == sorted(expected)
    assert uid_digits(array).to_pylist() == [
        f"{high:016x}{low:016x}" for high, low in sorted(expected)
    ]


def test_repetitions_across_chunks_are_removed(monkeypatch):
    monkeypatch.setattr("clipdre.formats.uids.CHUNK", 3)
    digits = [f"{n:032x}" for n in (5, 5, 5, 5, 1, 2, 3, 3, 9)]
    assert [low for _, low in written(digits)[0].tolist()] == [1, 2, 3, 5, 9]
