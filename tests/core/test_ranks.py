import numpy as np

from clipdre.core.ranks import ranks_in_groups


def test_ranks_are_by_score_within_a_group():
    leaders = np.array([0, 3, 2, 3, 3, 0])
    scores = np.array([1.0, 5.0, 0.0, 7.0, 5.0, 2.0])
    hashes = np.array([9, 8, 7, 6, 5, 4], np.uint64)
    assert ranks_in_groups(leaders, scores, hashes).tolist() == [2, 3, 1, 1, 2, 1]
    assert ranks_in_groups(leaders[:0], scores[:0], hashes[:0]).tolist() == []
