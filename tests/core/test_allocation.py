import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.allocation import fill_evenly, top

rows = st.lists(
    st.tuples(st.one_of(st.just(float("nan")), st.integers(-3, 3).map(float)), st.integers(0, 5)),
    max_size=40,
)


def naive_top(values, hashes, n):
    valid = [i for i in range(len(values)) if not np.isnan(values[i])]
    return sorted(sorted(valid, key=lambda i: (-values[i], hashes[i], i))[:n])


@given(rows, st.integers(0, 45))
def test_top_is_the_naive_sort(table, n):
    values = np.array([value for value, _ in table], dtype=np.float64)
    hashes = np.array([h for _, h in table], dtype=np.uint64)
    assert top(values, hashes, n).tolist() == naive_top(values, hashes, n)


@given(rows, st.integers(0, 45), st.randoms())
def test_top_does_not_depend_on_row_order(table, n, random):
    table = [(value, position) for position, (value, _) in enumerate(table)]  # hashes all differ
    order = list(range(len(table)))
    random.shuffle(order)
    values = np.array([value for value, _ in table], dtype=np.float64)
    hashes = np.array([h for _, h in table], dtype=np.uint64)
    straight = {int(hashes[i]) for i in top(values, hashes, n)}
    shuffled = {int(hashes[order][i]) for i in top(values[order], hashes[order], n)}
    assert straight == shuffled


def test_infinities_rank_like_numbers():
    values = np.array([1.0, np.inf, -np.inf, np.nan])
    assert top(values, np.zeros(4, np.uint64), 2).tolist() == [0, 1]


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match=r"'n' parameter of top must be >= 0\. Got -1 instead"):
        top(np.zeros(1), np.zeros(1, np.uint64), -1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 80))
def test_fill_evenly_is_one_from_each_bin_at_a_time(counts, n):
    left, filled = list(counts), [0] * len(counts)
    for _ in range(min(n, sum(counts))):
        level = min(filled[b] for b in range(len(counts)) if left[b])
        at = max(b for b in range(len(counts)) if left[b] and filled[b] == level)
        left[at] -= 1
        filled[at] += 1
    assert fill_evenly(np.array(counts), n).tolist() == filled


def test_fill_evenly_refuses_a_negative_count():
    with pytest.raises(ValueError, match=r"of fill_evenly must be >= 0\. Got -1 instead"):
        fill_evenly(np.array([1]), -1)
