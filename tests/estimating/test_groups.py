import numpy as np
import pytest
import torch

from clipdre.estimating.groups import NOBODY, Groups, half_of, left_out, united


def test_halves_are_divided_by_the_last_bit():
    hashes = np.array([0, 1, 2**64 - 1, 2**63], np.uint64)
    assert half_of(hashes).tolist() == [0, 1, 1, 0]


def test_groups_of_several_come_first():
    leaders = np.array([0, 1, 2, 1, 4, 2, 1])
    groups = Groups.led_by(leaders, np.array([0, 1, 0, 0, 1, 1, 1]))
    assert groups.of_rows[[1, 3, 6]].tolist() == [0, 0, 0]
    assert groups.of_rows[[2, 5]].tolist() == [1, 1]
    assert groups.counts.tolist() == [[1, 2], [1, 1]]
    alone = groups.of_rows[[0, 4]]
    assert len(set(alone)) == 2
    assert min(alone) > 1


def test_each_query_leaves_out_its_group_by_half():
    leaders = np.array([0, 1, 2, 1, 4, 2, 1])
    halves = np.array([0, 1, 0, 0, 1, 1, 1])
    groups = Groups.led_by(leaders, halves)
    queries = torch.from_numpy(np.append(groups.of_rows, NOBODY))
    found = left_out(queries, torch.from_numpy(groups.counts))
    expected = [
        [int(((leaders == own) & (halves == half)).sum()) for half in (0, 1)] for own in leaders
    ]
    assert found.tolist() == [*expected, [0, 0]]


def test_without_groups_of_several_each_query_leaves_out_itself():
    halves = np.array([0, 1, 1])
    groups = Groups.led_by(np.arange(3), halves)
    queries = torch.from_numpy(np.append(groups.of_rows, NOBODY))
    found = left_out(queries, torch.from_numpy(groups.counts))
    assert found.tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


class TestUnited:
    @pytest.mark.parametrize("seed", range(20))
    def test_is_the_connected_rows(self, seed):
        rng = np.random.default_rng(seed)
        samples = np.cumsum(rng.random(30) < 0.6) - 1
        samples -= samples[0]
        leaders = np.array([rng.integers(0, n + 1) if rng.random() < 0.2 else n for n in range(30)])
        for _ in range(5):
            leaders = leaders[leaders]
        parents = list(range(30))

        def root(n):
            return n if parents[n] == n else root(parents[n])

        for first in range(30):
            for second in range(30):
                if samples[first] == samples[second] or leaders[first] == leaders[second]:
                    low, high = sorted((root(first), root(second)))
                    parents[high] = low
        found = united(leaders, samples)
        assert found.tolist() == [
            min(leaders[k] for k in range(30) if root(k) == root(n)) for n in range(30)
        ]

    def test_changes_nothing_for_samples_of_one_row(self):
        leaders = np.array([0, 0, 2, 0])
        assert united(leaders, np.arange(4)).tolist() == leaders.tolist()
