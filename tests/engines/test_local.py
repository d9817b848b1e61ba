"""All engines give the same results; two processes on the CPU stand for several devices."""

import os
import signal
from dataclasses import dataclass

import pytest

from clipdre.engines.local import InProcess, ProcessPerDevice, Threads, local_engine
from clipdre.errors import InputError, ModelError


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers; misbehaves on those it is told to."""

    dies_at: int | None = None
    fails_at: int | None = None
    unusable: str | None = None

    def start(self, device, advance):
        if device == self.unusable:
            raise ModelError(f"no device {device}", "choose another")

        def do(item):
            if item == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if item == self.fails_at:
                raise InputError(f"item {item} is bad", "remove it")
            advance(item, 1, int(item < 15))
            return 2 * item

        return do


ENGINES = [InProcess("cpu"), ProcessPerDevice(("cpu", "cpu")), Threads(2)]


def test_one_device_stays_in_this_process():
    assert local_engine(["cpu"]) == InProcess("cpu")
    assert local_engine(["cuda:0", "cuda:1"]).devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_item_is_done_once_and_progress_adds_up(engine):
    reported = []
    items = list(range(10, 30))
    found = list(engine.run(Doubling(), items, lambda *report: reported.append(report)))
    assert sorted(found) == [(index, 2 * item) for index, item in enumerate(items)]
    assert [sum(column) for column in zip(*reported, strict=True)] == [sum(items), len(items), 5]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_items_start_nothing(engine):
    assert list(engine.run(Doubling(unusable="cpu"), [], lambda *_: None)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_items_are_taken_as_workers_need_them(engine):
    ahead = list(most_ahead(engine, 40))
    assert len(ahead) == 40
    assert max(ahead) <= 4


def most_ahead(engine, count):
    """Yield, for each result, how many items were taken whose results have not come."""
    taken = []

    def items():
        for item in range(count):
            taken.append(item)
            yield item

    for done, _ in enumerate(engine.run(Doubling(), items(), lambda *_: None)):
        yield len(taken) - done


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_keeps_its_problem_and_cure(engine):
    with pytest.raises(InputError, match="item 3 is bad: remove it") as caught:
        list(engine.run(Doubling(fails_at=3), [1, 2, 3], lambda *_: None))
    assert caught.value.cure == "remove it"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_device_that_cannot_start_is_reported(engine):
    with pytest.raises(ModelError, match="no device cpu: choose another"):
        list(engine.run(Doubling(unusable="cpu"), [1], lambda *_: None))


def test_without_shared_memory_the_cure_is_named(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(30, "Read-only file system", "/dev/shm")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(ModelError, match=r"cannot share memory .*Read-only.*: make /dev/shm"):
        list(ENGINES[1].run(Doubling(), [1], lambda *_: None))


def test_a_worker_that_dies_is_one_clear_error():
    engine = ProcessPerDevice(("cpu", "cpu"))
    with pytest.raises(ModelError, match=r"a worker process died.*it resumes"):
        list(engine.run(Doubling(dies_at=2), [1, 2, 3], lambda *_: None))
