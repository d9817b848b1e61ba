"""The samples of an index in the order of an epoch, one part of them in each process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import msgspec
import numpy as np
import torch
import webdataset as wds
from torch.utils.data import IterableDataset, get_worker_info

from clipdre.errors import UsageError
from clipdre.training.index import Index, Sample
from clipdre.training.order import Part, buffered, part_of, seeded, taken
from clipdre.training.state import State
from clipdre.words import changed, count


class Spans(IterableDataset[Sample]):
    """Samples read from the byte spans of an index.

    Parameters
    ----------
    shuffle : int
        Size of the shuffle buffer; 0 is pool order.

    Attributes
    ----------
    epoch : Tensor
        In memory that workers share, so that they see it change.
    """

    def __init__(self, index: Index, shuffle: int, seed: int, epoch: int) -> None:
        super().__init__()
        self.index = index
        self.epoch = torch.tensor(epoch).share_memory_()  # type: ignore[no-untyped-call]
        self._shuffle, self._seed = shuffle, seed
        self._world: tuple[int, int] | None = None
        self._loaded: State | None = None
        # Worker, state at the start of its pass, and samples handed out by now.
        self._running: tuple[int, State, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker that starts as a new process does not know the process group.
        part = self._part()
        return self.__dict__ | {"_world": (part.rank, part.world), "_running": None}

    def __iter__(self) -> Iterator[Sample]:
        part = self._part()
        self._check(part.world * part.workers)
        start = self._start(part.workers)
        # Loaders begin with their first worker, which takes over from the one whose turn it is.
        part = part._replace(worker=(part.worker + start.first) % part.workers)
        position = start.positions[part.worker]
        self._running = part.worker, start, position
        for sample in self._samples(part, start.epoch, position):
            position += 1
            self._running = part.worker, start, position
            yield sample

    def _samples(self, part: Part, epoch: int, position: int) -> Iterator[Sample]:
        """Yield the samples of a part from `position` on."""
        shards = list(self.index.shards)
        if self._shuffle:
            seeded("shards", self._seed, epoch).shuffle(shards)
        parts = part_of([rows for _, rows in shards], part)
        order: Iterator[int] = chain.from_iterable(rows for _, rows in parts)
        if self._shuffle:
            order = buffered(order, self._shuffle, seeded("rows", self._seed, epoch, *part))
        gone = np.zeros(len(self.index) if position else 0, np.bool_)
        gone[np.fromiter(islice(order, position), np.int64)] = True
        reading = chain.from_iterable(
            self.index.samples(shards[n][0], rows, gone if position else None) for n, rows in parts
        )
        held: dict[int, Sample] = {}
        for row in order:
            while row not in held:
                held.update([next(reading)])
            yield held.pop(row)

    def _part(self) -> Part:
        """Return the part of this process."""
        part = Part(*wds.utils.pytorch_worker_info())
        if self._world is None or get_worker_info() is None:
            return part
        return part._replace(rank=self._world[0], world=self._world[1])

    def _check(self, parts: int) -> None:
        """Refuse more parts than samples: some would be empty, and their ranks never in step."""
        if len(self.index) < parts:
            raise UsageError(
                f"{count(len(self.index), 'sample')} cannot be shared by {count(parts, 'worker')}",
                "use fewer workers or ranks, or keep more samples",
            )

    def _start(self, workers: int) -> State:
        """Return the state in which a pass with so many workers begins."""
        epoch = int(self.epoch)
        if self._loaded is None or self._loaded.epoch != epoch:
            return self._new(epoch, workers)
        then = len(self._loaded.positions)
        if then != workers:
            problem = f"the state is of another number of workers ({changed(then, workers)})"
            raise UsageError(problem, f"continue with {then}, or begin the epoch anew")
        return self._loaded

    def _new(self, epoch: int, workers: int) -> State:
        return State(
            subset=self.index.digest,
            shuffle=self._shuffle,
            seed=self._seed,
            world=self._part().world,
            epoch=epoch,
            positions=(0,) * workers,
        )

    def even_batches(self, batch_size: int, workers: int) -> int:
        """Return how many full batches the smallest part has; `UsageError` if there is none."""
        parts = self._part().world * workers
        each = len(self.index) // self._part().world // workers // batch_size
        if not each:
            problem = f"{count(len(self.index), 'sample')} are no batch of {batch_size:,} for each"
            raise UsageError(
                f"{problem} of {count(parts, 'worker')}", "use fewer workers or a smaller batch"
            )
        return each

    def state(self) -> State:
        """Return where this process is."""
        if self._running is None:
            return self._start(len(self._loaded.positions) if self._loaded else 1)
        worker, start, position = self._running
        positions = (*start.positions[:worker], position, *start.positions[worker + 1 :])
        return msgspec.structs.replace(start, positions=positions)

    def state_after(self, batches: int, batch_size: int, workers: int, partial: bool) -> State:
        """Return where this rank is when a loader has given so many batches of this pass."""
        start = self._start(workers)
        part = self._part()._replace(workers=workers)
        bounds = [part._replace(worker=n).bounds(len(self.index)) for n in range(workers)]
        sizes = [high - low for low, high in bounds]
        left = [n - at for n, at in zip(sizes, start.positions, strict=True)]
        rest = batch_size - 1 if partial else 0
        counts, turn = taken([(n + rest) // batch_size for n in left], start.first, batches)
        positions = tuple(
            min(at + n * batch_size, size)
            for at, n, size in zip(start.positions, counts, sizes, strict=True)
        )
        return msgspec.structs.replace(start, positions=positions, first=turn)

    def load(self, raw: dict[str, Any]) -> None:
        """Begin the passes of the state's epoch where it was taken."""
        self._loaded = self._new(0, 1).continued(raw)
        self._running = None
        self.epoch.fill_(self._loaded.epoch)
