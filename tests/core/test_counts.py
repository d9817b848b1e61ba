from collections import Counter
from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.counts import (
    count_codes,
    count_texts,
    counts_of_texts,
    merge_codes,
    merge_texts,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@given(st.lists(st.lists(TEXT, max_size=8), min_size=1, max_size=4))
def test_merged_texts_are_counted_together(parts):
    merged = reduce(merge_texts, map(count_texts, parts))
    expected = Counter(text for part in parts for text in part)
    found = counts_of_texts(merged)
    assert found == expected
    assert list(found) == sorted(expected)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4))
def test_merged_codes_are_counted_together(parts):
    arrays = [np.array(part, np.int64) for part in parts]
    merged = reduce(merge_codes, map(count_codes, arrays))
    codes, counts = np.unique(np.concatenate(arrays), return_counts=True)
    np.testing.assert_array_equal(merged["codes"], codes)
    np.testing.assert_array_equal(merged["counts"], counts)
    assert {array.dtype for array in merged.values()} == {np.dtype(np.int64)}


def test_an_empty_pool_has_no_texts():
    assert counts_of_texts({}) == {}
    assert counts_of_texts(count_texts([])) == {}
