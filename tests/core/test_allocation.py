import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.allocation import fill_evenly


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 80))
def test_fills_the_emptiest_bin_one_row_at_a_time(counts, n):
    left, filled = list(counts), [0] * len(counts)
    for _ in range(min(n, sum(counts))):
        level = min(filled[b] for b in range(len(counts)) if left[b])
        chosen = max(b for b in range(len(counts)) if left[b] and filled[b] == level)
        left[chosen] -= 1
        filled[chosen] += 1
    assert fill_evenly(np.array(counts), n).tolist() == filled


def test_rejects_a_negative_count():
    with pytest.raises(ValueError, match=r"'n' parameter of fill_evenly must be >= 0\. Got -1 ins"):
        fill_evenly(np.array([1]), -1)
