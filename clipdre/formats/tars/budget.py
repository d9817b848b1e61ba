"""Bytes that threads may use at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """A number of bytes that threads share.

    Parameters
    ----------
    nbytes : int
        A request for more waits until nobody else uses any.
    """

    def __init__(self, nbytes: int) -> None:
        self._all = self._free = nbytes
        self._changed = threading.Condition()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Use `nbytes`, once they are free."""
        wanted = min(nbytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._free)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
