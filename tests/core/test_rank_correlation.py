import numpy as np
import pytest

from clipdre.core.rank_correlation import mean_ranks, rank_correlations


def naive(a, b):
    """Spearman's correlation, by counting."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x == x and y == y]
    ranks = [
        [
            sum(other < value for other in column) + (sum(o == value for o in column) + 1) / 2
            for value in column
        ]
        for column in zip(*pairs, strict=True)
    ]
    return np.corrcoef(*ranks)[0, 1]


def test_ties_share_the_mean_of_their_ranks():
    assert mean_ranks(np.array([5.0, -np.inf, 5.0, 7.0])).tolist() == [2.5, 1, 2.5, 4]


def test_matches_a_naive_version_with_ties_and_missing_values():
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    b, c = np.round(a + rng.normal(size=60)), rng.normal(size=60)
    c[::7] = np.nan
    found = rank_correlations([a, b, c])
    for n, first in enumerate((a, b, c)):
        for m, second in enumerate((a, b, c)):
            assert found[n, m] == pytest.approx(naive(first, second)), (n, m)


def test_what_does_not_vary_or_is_missing_has_no_correlation():
    a, missing = np.arange(4.0), np.full(4, np.nan)
    found = rank_correlations([a, np.ones(4), missing])
    assert found[0, 0] == 1
    assert np.isnan(found[1:]).all()
    assert rank_correlations([np.empty(0)] * 2).shape == (2, 2)
