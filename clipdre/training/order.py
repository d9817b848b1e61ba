"""The order of an epoch: which rows a process reads, and in which order it hands them out.

Rows are numbers, so an order is known before a byte is read, and can be resumed at any place.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """One of the parts of an epoch: for each node, one for each of its workers."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def bounds(self, rows: int) -> tuple[int, int]:
        """Return where the part begins and ends in `rows` rows.

        The nodes' shares differ by at most one row, and so do those of a node's workers.
        """
        low, high = (rows * rank // self.world for rank in (self.rank, self.rank + 1))
        first, last = (
            low + (high - low) * n // self.workers for n in (self.worker, self.worker + 1)
        )
        return first, last


def seeded(*use: object) -> random.Random:
    """Return random numbers for one use, the same on every machine."""
    return random.Random(" ".join(map(str, use)))  # noqa: S311 (an order, not a secret)


def part_of(shards: Sequence[range], part: Part) -> list[tuple[int, range]]:
    """Return the rows of `part`, with the number of their shard: shards follow each other."""
    low, high = part.bounds(sum(map(len, shards)))
    found, at = [], 0
    for n, shard in enumerate(shards):
        rows = shard[max(low - at, 0) : max(high - at, 0)]
        if rows:
            found.append((n, rows))
        at += len(shard)
    return found


def buffered(rows: Iterable[int], size: int, rng: random.Random) -> Iterator[int]:
    """Yield rows in the order in which a shuffle buffer of `size` hands them out."""
    held: list[int] = []
    for row in rows:
        if len(held) < size:
            held.append(row)
            continue
        n = rng.randrange(size)
        yield held[n]
        held[n] = row
    rng.shuffle(held)
    yield from held


def taken(left: Sequence[int], first: int, batches: int) -> tuple[list[int], int]:
    """Return how many of `batches` a loader has taken from each worker, and whose turn it is.

    Parameters
    ----------
    left : sequence of int
        Batches that each worker has; one without any is passed over.
    first : int
        Worker that gave the first batch.
    """
    counts, worker = [0] * len(left), first
    for _ in range(min(batches, sum(left))):
        while counts[worker] == left[worker]:
            worker = (worker + 1) % len(left)
        counts[worker] += 1
        worker = (worker + 1) % len(left)
    return counts, worker
