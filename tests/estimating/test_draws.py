import numpy as np
import pytest

from clipdre.estimating.draws import bulk_rows, largest, smallest


@pytest.mark.parametrize("n", [0, 1, 2, 7, 50])
def test_smallest_and_largest_match_a_stable_sort(n):
    hashes = np.random.default_rng(0).integers(20, size=50).astype(np.uint64)
    order = np.argsort(hashes, kind="stable")
    assert smallest(hashes, n).tolist() == order[:n].tolist()
    assert n == 0 or largest(hashes, n).tolist() == order[-n:].tolist()


def test_folds_of_the_bulk_are_uniform_samples():
    order, halves = np.random.default_rng(0).permutation(1000), np.arange(1000) % 2
    folds = bulk_rows(order, halves, 96, 16).reshape(2, 8, 6)
    for half in (0, 1):
        own = order[order % 2 == half][:48]
        for k, fold in enumerate(folds[half]):  # none holds the smallest hashes only
            assert fold.tolist() == own[k::8].tolist()
