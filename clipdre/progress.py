"""Progress: a bar in terminals and notebooks, and a line now and then for logs."""

from __future__ import annotations

import logging
import sys
import time
from contextvars import ContextVar

from tqdm.auto import tqdm

from clipdre.words import count

# Lines of progress. Python users see them where they configure logging at the level INFO.
LOG = logging.getLogger("clipdre.progress")
# Whether bars are shown at all.
BARS: ContextVar[bool] = ContextVar("clipdre.bars", default=True)
# Seconds between two lines.
EVERY = 30.0
IN_NOTEBOOK = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)


class Progress:
    """Progress over work of known size (bytes, tiles), with the rate in samples.

    The number of samples in a tar is unknown until its end, so the remaining time is estimated from
    the work and the rate counts samples.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._bar = tqdm(
            total=total,
            desc=label,
            disable=not shows_bars(),
            bar_format="{desc}: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]",
            mininterval=0.5,
        )
        self._done = self._skipped = self._samples = self._failures = 0
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        seconds = time.monotonic() - self._started
        # A stage that was too short for a line has nothing to conclude, except in a log file.
        level = logging.INFO if self._logged > self._started else logging.DEBUG
        LOG.log(level, "%s, %s", self._counted(seconds), tqdm.format_interval(seconds))

    def skip(self, work: int) -> None:
        """Record that `work` units need not be done: they say nothing about the time left."""
        self._done += work
        self._skipped += work
        self._bar.update(work)

    def advance(self, work: int, samples: int = 0, failures: int = 0) -> None:
        """Record that `work` more units and `samples` more samples are done."""
        self._done += work
        self._samples += samples
        self._failures += failures
        now = time.monotonic()
        if counted := self._samples_at(now - self._started):
            self._bar.set_postfix_str(f" {counted}", refresh=False)
        self._bar.update(work)
        if now - self._logged >= EVERY:
            self._logged = now
            left = self._left(now - self._started)
            LOG.info("%s%s", self._counted(now - self._started), left and f", {left} left")

    def _counted(self, seconds: float) -> str:
        # What is tried again counts twice.
        share = f"{self._label}: {min(1, self._done / max(1, self._total)):.0%}"
        return ", ".join(part for part in (share, self._samples_at(seconds)) if part)

    def _samples_at(self, seconds: float) -> str:
        if not self._samples:  # not every stage counts them
            return ""
        rate = f"{count(self._samples, 'sample')}, {self._samples / max(seconds, 1e-9):,.0f}/s"
        return rate + (f", {self._failures:,} failed" if self._failures else "")

    def _left(self, seconds: float) -> str:
        """Return how long the rest takes at the rate so far; empty if there is none yet."""
        done = self._done - self._skipped
        if not done:
            return ""
        left: str = tqdm.format_interval(max(0, self._total - self._done) * seconds / done)
        return left


def shows_bars() -> bool:
    """Whether progress is shown as a bar: on a terminal or in a notebook."""
    return BARS.get() and (IN_NOTEBOOK or sys.stderr.isatty())
