"""Progress on stderr; silent if stderr is not a terminal."""

from __future__ import annotations

import time

from tqdm import tqdm

from clipdre.words import count


class Progress:
    """A bar over work of known size (bytes, tiles) that shows the rate in samples.

    The number of samples in a tar is unknown until its end, so the remaining time is estimated from
    the work and the rate counts samples.
    """

    def __init__(self, label: str, total: int) -> None:
        self._bar = tqdm(
            total=total,
            desc=label,
            disable=None,
            bar_format="{desc}: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
            mininterval=0.5,
        )
        self._samples = 0
        self._started = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, work: int, samples: int = 0) -> None:
        """Record that `work` more units and `samples` more samples are done."""
        self._samples += samples
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._samples / elapsed
        if self._samples:  # not every stage counts them
            counted = f" {count(self._samples, 'sample')}, {rate:,.0f}/s"
            self._bar.set_postfix_str(counted, refresh=False)
        self._bar.update(work)
