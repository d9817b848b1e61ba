"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return the number of processors that affinity and the quotas of cgroups leave; at least 1."""
    return max(1, math.ceil(min([_allowed(), *_quotas()])))


def limit_threads() -> None:
    """Let the libraries that count all processors start no more threads than there are for us.

    OpenMP (torch and faiss) and Arrow read the variable when they are loaded, worker processes
    inherit it, and one that is set already stays.
    """
    if usable_cpus() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cpus()))


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the quotas of this process's cgroups and of all above them, in processors."""
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _read(CGROUPS, path, ("cpu.max",))
            elif "cpu" in controllers.split(","):
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                yield from _read(CGROUPS / controllers, path, names)
                yield from _read(CGROUPS / "cpu", path, names)


def _read(root: Path, path: str, names: tuple[str, ...]) -> Iterator[float]:
    place = root / path.strip("/")
    for folder in (place, *place.parents):
        with suppress(OSError, ValueError):  # a missing file, or "max" or -1 for no limit
            quota, period = (int(n) for name in names for n in (folder / name).read_text().split())
            if quota > 0 and period > 0:
                yield quota / period
        if folder == root:
            return
