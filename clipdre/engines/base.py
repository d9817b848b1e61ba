"""What an engine runs, and what an engine is.

A stage describes its work once; an engine decides where it runs. Results never depend on the
engine, on the number of devices, or on the order in which items finish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Advance(Protocol):
    """Reports progress: units of work, samples, and how many of those failed."""

    def __call__(self, work: int, samples: int, failures: int = 0, /) -> None:
        """Report that so much more is done."""


class Work(Protocol[Item_contra, Result_co]):
    """Something to do for each item. It is pickled, and started once in each worker."""

    def start(self, device: str, advance: Advance) -> Callable[[Item_contra], Result_co]:
        """Load what all items need on `device`; return the function that does one item."""
        ...


class Engine(Protocol):
    """Runs work on one device or several."""

    @property
    def devices(self) -> Sequence[str]:
        """Devices that work runs on."""
        ...

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """Yield the index and result of each item, in the order in which they finish.

        Items are taken as workers need them, so that only those at work have to be in memory.

        Raises
        ------
        ClipdreError
            Whatever the work raises; `ModelError` when a worker dies.
        """
        ...


def silent(work: int, samples: int, failures: int = 0, /) -> None:
    """Report no progress."""
