import numpy as np

from clipdre.formats.uids import uid_array


def test_uids_are_sorted_unique_and_padded():
    uids = ["f" * 32, "1", "0" * 31 + "1", None, "no uid", "10000000000000000", "f" * 33]
    array, without = uid_array(uids)
    assert array.tolist() == [(0, 1), (1, 0), (2**64 - 1, 2**64 - 1)]
    assert array.dtype == np.dtype("u8,u8")
    assert without == 3


def test_none_at_all():
    array, without = uid_array([])
    assert array.shape == (0,)
    assert without == 0
