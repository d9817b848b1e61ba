"""The engine of a Ray cluster: actors that hold a model each, and a driver that hands out items.

Ray starts actors and finds out when one is lost; this module decides what happens then. An item
whose actor is lost goes to another actor. Ray's own restarts (`max_restarts`) are not used: a
restarting actor keeps its items, and if no node has room for it, they wait for ever.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from clipdre.engines.base import Advance, Item, Result, Work
from clipdre.engines.nodes import fits, join, load_ray
from clipdre.errors import ClipdreError, ModelError, UsageError
from clipdre.words import count, one_line

# Items that an actor has: one that it does, and the next one.
IN_FLIGHT = 2
# Actors that may be lost while they have an item, and in a row without a result.
TRIES = 4
# Seconds between two looks at signals, and between two looks at the cluster.
LOOK, LOOK_AT_NODES = 0.2, 10.0
RESUME = "run the same command again: it resumes"


@dataclass(frozen=True)
class RayEngine:
    """Runs work in actors on the nodes of a Ray cluster.

    Attributes
    ----------
    devices : tuple of str
        Devices of this process, for what is not handed out.
    gpus : bool
        Whether each actor has a GPU.
    cpus : int
        CPUs of each actor.
    workers : int
        Actors that the cluster has room for.
    idle : list
        Actors that wait for the next work: to start one takes longer than to load a model.
    """

    devices: tuple[str, ...]
    gpus: bool
    cpus: int
    workers: int
    idle: list[Any] = field(default_factory=list, compare=False, repr=False)

    @property
    def device(self) -> str:
        """The device of an actor, as the actor sees it."""
        return "cuda:0" if self.gpus else "cpu"

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine`."""
        queue = _Queue(items)
        size = queue.drawn(self.workers)
        crew = _Crew(
            self._hire, self._has_room, (load_ray().put(work), self.device, str(Path.cwd()))
        )
        try:
            yield from crew.run(queue, size, advance)
        except BaseException:  # they may be at work
            crew.dismiss(crew.actors)
            raise
        self.idle.extend(crew.release())

    def _hire(self) -> Any:
        """Return an actor; a new one waits until a node has room for it."""
        if self.idle:
            return self.idle.pop()
        actor = load_ray().remote(_Actor)
        return actor.options(num_cpus=self.cpus, num_gpus=int(self.gpus), max_restarts=0).remote()

    def _has_room(self) -> bool:
        return any(fits(node, self.gpus, self.cpus) for node in load_ray().nodes())


def connect(
    address: str | None, cpus_per_worker: int | None, device: str, devices: Sequence[str]
) -> RayEngine:
    """Connect to a cluster; return its engine.

    Parameters
    ----------
    address : str or None
        ``HOST:PORT`` of an existing cluster; None is the one of ``RAY_ADDRESS`` or of this machine,
        or else a new one on this machine.
    cpus_per_worker : int or None
        None shares the CPUs of the smallest node among its GPUs; without GPUs one actor has them
        all.
    device : {"auto", "cpu", "cuda"}
        What actors use; ``auto`` is GPUs if the cluster has any.
    devices : sequence of str
        Devices of this process.

    Raises
    ------
    UsageError, ModelError
        If Ray is not installed, there is no cluster, or no node of it can hold an actor.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"`device` {device} is not for a cluster", "use auto, cpu or cuda")
    join(address)
    nodes = [node for node in load_ray().nodes() if node["Alive"]]
    gpus = device != "cpu" and any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    if device == "cuda" and not gpus:
        raise ModelError("no node of the cluster has a GPU", "use `device` auto or cpu")
    able = [n["Resources"] for n in nodes if n["Resources"].get("GPU" if gpus else "CPU", 0) >= 1]
    shares = [int(r.get("CPU", 0) // (r["GPU"] if gpus else 1)) for r in able]
    cpus = cpus_per_worker or max(1, min(shares, default=1))
    rooms = [int(r.get("CPU", 0) // cpus) for r in able]
    if gpus:
        rooms = [min(room, int(r["GPU"])) for room, r in zip(rooms, able, strict=True)]
    if not sum(rooms):
        most = max((int(r.get("CPU", 0)) for r in able), default=0)
        raise UsageError(
            f"no node of the cluster has {count(cpus, 'CPU')}{' for each GPU' if gpus else ''}",
            f"use a smaller `cpus_per_worker` (the largest node has {count(most, 'CPU')})",
        )
    return RayEngine(tuple(devices), gpus, cpus, sum(rooms))


class _Actor:
    """Does one work after another on a node, and of each one item after another."""

    def __init__(self) -> None:
        self._do: Callable[[Any], Any] | None = None
        self._reported: list[tuple[int, int, int]] = []

    def ready(self, work: Work[Any, Any], device: str, folder: str) -> ClipdreError | None:
        """Load what all items need; return the error if that fails."""
        with suppress(OSError):  # then no path is relative to it
            os.chdir(folder)
        self._do = None  # first, to free the memory of the last work
        try:
            self._do = work.start(device, self._report)
        except ClipdreError as error:
            return error
        return None

    def do(self, item: Any) -> tuple[Any, tuple[int, int, int]]:
        """Return the result of an item, or the error, and the progress that it made."""
        assert self._do is not None
        self._reported.clear()
        try:
            found = self._do(item)
        except ClipdreError as error:
            found = error
        work, samples, failures = (sum(r[n] for r in self._reported) for n in range(3))
        return found, (work, samples, failures)

    def _report(self, work: int, samples: int, failures: int = 0) -> None:
        self._reported.append((work, samples, failures))


class _Queue:
    """Items with their indices: those that came back, then those that follow."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._coming = enumerate(items)
        self._here = deque[tuple[int, Any]]()

    def drawn(self, most: int) -> int:
        """Draw up to `most` items; return how many are here."""
        self._here.extend(islice(self._coming, max(0, most - len(self._here))))
        return len(self._here)

    def __bool__(self) -> bool:
        return self.drawn(1) > 0

    def take(self) -> tuple[int, Any]:
        """Return the next item."""
        return self._here.popleft()

    def put_back(self, task: tuple[int, Any]) -> None:
        """Let an item be the next one."""
        self._here.appendleft(task)


class _Crew:
    """Actors at work: who has which items, and what happens when one is lost.

    Parameters
    ----------
    hire : callable
        Returns an actor.
    has_room : callable
        Whether any node could hold an actor.
    told : tuple
        What an actor is told to get ready: the work, its device, and the folder that relative
        paths start from.
    """

    def __init__(
        self, hire: Callable[[], Any], has_room: Callable[[], bool], told: tuple[Any, str, str]
    ) -> None:
        self._hire, self._has_room, self._told = hire, has_room, told
        self.actors: list[Any] = []
        # What was asked of an actor: an item with its index, or None to get ready.
        self._asked: dict[Any, tuple[Any, tuple[int, Any] | None]] = {}
        self._lost: Counter[int] = Counter()
        self._lost_in_a_row = 0

    def run(self, queue: _Queue, size: int, advance: Advance) -> Iterator[tuple[int, Any]]:
        """Yield the index and result of each item."""
        for _ in range(size):
            self._start()
        while queue or any(task for _, task in self._asked.values()):
            for actor, task, found in self._finished():
                if isinstance(found, _Lost):
                    self._replace(actor, task, queue)
                    self._share(queue)
                    continue
                if task is not None:
                    result, progress = found
                    if isinstance(result, ClipdreError):
                        raise result
                    advance(*progress)
                    self._lost_in_a_row = 0
                    yield task[0], result
                elif isinstance(found, ClipdreError):
                    raise found
                self._hand_out(actor, queue)

    def release(self) -> list[Any]:
        """Return the actors that wait for more; end those that still wait for room on a node."""
        starting = [actor for actor, _ in self._asked.values()]
        self.dismiss(starting)
        return [actor for actor in self.actors if actor not in starting]

    def dismiss(self, actors: Sequence[Any]) -> None:
        """End actors, whatever they do."""
        ray = load_ray()
        for actor in actors:
            with suppress(Exception):  # it is gone, or the cluster is
                ray.kill(actor)

    def _start(self) -> None:
        actor = self._hire()
        self.actors.append(actor)
        self._asked[actor.ready.remote(*self._told)] = (actor, None)

    def _finished(self) -> Iterator[tuple[Any, tuple[int, Any] | None, Any]]:
        """Wait for answers; yield whose they are, for which item, and what was found."""
        ray = load_ray()
        waited, done = 0.0, list[Any]()
        while not done:
            done, _ = ray.wait(list(self._asked), timeout=LOOK)
            waited += LOOK
            if not done and waited > LOOK_AT_NODES:
                waited = 0.0
                if not self._has_room():
                    raise ModelError("the cluster has lost all nodes that can work", RESUME)
        for ref in done:
            actor, task = self._asked.pop(ref)
            try:
                yield actor, task, ray.get(ref)
            except ray.exceptions.RayActorError as error:
                yield actor, task, _Lost(one_line(error))
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None

    def _replace(self, actor: Any, task: tuple[int, Any] | None, queue: _Queue) -> None:
        """Put the item of a lost actor first in the queue, and start another actor, once."""
        if task is not None:
            queue.put_back(task)
            self._lost[task[0]] += 1
        if actor in self.actors:
            self.actors.remove(actor)
            self._lost_in_a_row += 1
            self._start()
        if max(self._lost.values(), default=0) >= TRIES or (
            self._lost_in_a_row >= TRIES * len(self.actors)
        ):
            raise ModelError(
                f"workers died {TRIES} times in a row, perhaps for lack of memory",
                f"use a smaller batch, or larger workers (`cpus_per_worker`), and {RESUME}",
            )

    def _hand_out(self, actor: Any, queue: _Queue) -> None:
        while self._has(actor) < IN_FLIGHT and queue:
            task = queue.take()
            self._asked[actor.do.remote(task[1])] = (actor, task)

    def _share(self, queue: _Queue) -> None:
        """Give what came back to the queue to actors that are ready and have little to do."""
        starting = {actor for actor, task in self._asked.values() if task is None}
        for actor in self.actors:
            if actor not in starting:
                self._hand_out(actor, queue)

    def _has(self, actor: Any) -> int:
        return sum(other == actor for other, _ in self._asked.values())


@dataclass(frozen=True)
class _Lost:
    """The actor died, or its node."""

    reason: str
