"""Engines that show whether results depend on who did what, and when."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from clipdre.engines.base import silent


class KilledError(Exception):
    """The run was killed."""


@dataclass
class Scrambled:
    """Pickles work and items, as other processes would get them; the last item comes first.

    Attributes
    ----------
    most : int or None
        Items after which the run is killed.
    done : list of str
        Parts that were computed.
    """

    most: int | None = None
    done: list[str] = field(default_factory=list)
    devices: tuple[str, ...] = ("cpu", "cpu")

    def run(self, work: Any, items: Any, advance: Any) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        workers = [pickle.loads(pickle.dumps(work)).start("cpu", silent) for _ in self.devices]
        for index in reversed(range(len(items))):
            if self.most is not None and len(self.done) >= self.most:
                raise KilledError
            item = pickle.loads(pickle.dumps(items[index]))
            yield index, workers[index % len(workers)](item)
            self.done.append(item.part)
            advance(item.size, 0)
