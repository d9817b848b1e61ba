"""Engines of one machine: this process, its threads, or a process for each device."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing.queues import SimpleQueue
from typing import Any

from clipdre.engines.base import Advance, Engine, Item, Result, Work
from clipdre.errors import ClipdreError, ModelError
from clipdre.words import one_line

# Items that wait for each worker, beside the one that it does.
WAITING = 1
# What a worker process reports: the arguments of `Advance`.
Report = tuple[int, int, int]


def local_engine(devices: Sequence[str]) -> Engine:
    """Return the engine for one device (this process) or several (a process each)."""
    return InProcess(devices[0]) if len(devices) == 1 else ProcessPerDevice(tuple(devices))


@dataclass(frozen=True)
class InProcess:
    """Does one item after another in this process."""

    device: str

    @property
    def devices(self) -> tuple[str, ...]:
        """See `Engine`."""
        return (self.device,)

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine`."""
        do = None
        for index, item in enumerate(items):
            do = do or work.start(self.device, advance)
            yield index, do(item)


@dataclass(frozen=True)
class Threads:
    """Does items in threads of this process, for work that mostly waits for files."""

    count: int
    devices: tuple[str, ...] = ("cpu",)

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine`."""
        lock = threading.Lock()

        def in_turn(amount: int, samples: int, failures: int = 0, /) -> None:
            with lock:
                advance(amount, samples, failures)

        some = _unless_empty(items)
        if some is None:
            return
        count = max(1, self.count)
        with ThreadPoolExecutor(count) as threads:
            yield from _finished(threads, count, work.start("cpu", in_turn), some)


@dataclass(frozen=True)
class ProcessPerDevice:
    """Runs a process on each device; each takes the next item when it is done with one."""

    devices: tuple[str, ...]

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine`."""
        some = _unless_empty(items)
        if some is None:
            return
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        try:
            names, reports = context.SimpleQueue(), context.SimpleQueue()
        except OSError as error:
            problem = f"cannot share memory between processes ({one_line(error)})"
            raise ModelError(problem, "make /dev/shm writable, or use one `device`") from error
        for device in self.devices:
            names.put(device)
        with (
            _relayed(reports, advance),
            ProcessPoolExecutor(
                len(self.devices),
                mp_context=context,
                initializer=_start,
                initargs=(names, reports, work),
            ) as processes,
        ):
            try:
                yield from _finished(processes, len(self.devices), _do, some)
            except BrokenProcessPool as error:
                raise ModelError(
                    "a worker process died, perhaps for lack of memory",
                    "use a smaller `batch_size` or one `device`, and run the same command again: "
                    "it resumes (a script that calls clipdre needs "
                    'if __name__ == "__main__":)',
                ) from error


def _unless_empty(items: Iterable[Item]) -> Iterator[Item] | None:
    """Return the items, or None if there are none; only the first is taken."""
    left = iter(items)
    for first in left:
        return chain([first], left)
    return None


def _finished(
    workers: Executor, count: int, do: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[int, Result]]:
    """Yield the index and result of each item; few items wait for one of the `count` workers."""
    futures: dict[Future[Result], int] = {}

    def done(most: int) -> Iterator[tuple[int, Result]]:
        while len(futures) > most:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                yield futures.pop(future), future.result()

    try:
        for index, item in enumerate(items):
            futures[workers.submit(do, item)] = index
            yield from done(count * (1 + WAITING) - 1)
        yield from done(0)
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _relayed(reports: SimpleQueue[Report | None], advance: Advance) -> Iterator[None]:
    """Pass on the progress that worker processes report."""

    def relay() -> None:
        while (report := reports.get()) is not None:
            advance(*report)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        reports.put(None)
        thread.join()


# What a worker process does with an item, or why it cannot.
_worker: Callable[[Any], Any] | ClipdreError


def _start(
    names: SimpleQueue[str], reports: SimpleQueue[Report | None], work: Work[Any, Any]
) -> None:
    global _worker  # noqa: PLW0603 (an initializer has no other way to hand something on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends
    threading.Thread(target=_end_with_the_parent, daemon=True).start()

    def advance(amount: int, samples: int, failures: int = 0) -> None:
        reports.put((amount, samples, failures))

    try:
        _worker = work.start(names.get(), advance)
    except ClipdreError as error:
        _worker = error


def _do(item: Any) -> Any:
    if isinstance(_worker, ClipdreError):
        raise _worker
    return _worker(item)


def _end_with_the_parent() -> None:
    """End this process when its parent does: nobody holds the output folder's lock any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
