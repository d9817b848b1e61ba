import random
from itertools import chain

import pytest
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from clipdre.training.order import Part, buffered, part_of, taken


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 1), (1, 3), (3, 2), (4, 4)])
def test_parts_hold_every_row_once_and_are_of_one_size(world, workers):
    shards = [range(10, 33), range(10), range(33, 50)]
    parts = [
        [row for _, rows in part_of(shards, Part(r, world, w, workers)) for row in rows]
        for r in range(world)
        for w in range(workers)
    ]
    assert list(chain.from_iterable(parts)) == list(chain.from_iterable(shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1 + (world > 1)


def test_parts_name_the_shards_of_their_rows():
    assert part_of([range(4, 8), range(4)], Part(0, 1, 1, 2)) == [(1, range(4))]
    assert part_of([range(4, 8), range(4)], Part(0, 3)) == [(0, range(4, 6))]
    assert part_of([range(4, 8), range(4)], Part(1, 3)) == [(0, range(6, 8)), (1, range(1))]


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_buffer_yields_every_row_once_and_none_before_it_was_read(size):
    order = list(buffered(range(100), size, random.Random(0)))
    assert sorted(order) == list(range(100))
    assert all(row <= n + size for n, row in enumerate(order))
    assert (order == list(range(100))) == (size == 1)


class Numbered(IterableDataset):
    def __init__(self, sizes, first):
        self.sizes, self.first = sizes, first

    def __iter__(self):
        worker = (get_worker_info().id + self.first) % len(self.sizes)
        yield from ((worker, n) for n in range(self.sizes[worker]))


@pytest.mark.filterwarnings("ignore:This DataLoader:UserWarning", "ignore::DeprecationWarning")
def test_workers_take_turns_as_in_torchs_loader():
    sizes = (5, 1, 0, 4)
    loader = DataLoader(Numbered(sizes, 3), batch_size=None, num_workers=4)
    counts, turn = [0] * 4, 3
    for n, (worker, _) in enumerate(loader):
        assert taken(sizes, 3, n) == (counts, turn)
        counts[worker] += 1
        turn = (worker + 1) % 4
    assert taken(sizes, 3, 99)[0] == list(sizes) == counts
