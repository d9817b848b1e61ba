"""The engine that a run of a model asks for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdre.config import EngineConfig, EngineName
from clipdre.engines.base import Advance, Engine, Item, Result, Work
from clipdre.engines.local import local_engine
from clipdre.engines.open import open_ray
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.store import NoStore, Store
from clipdre.formats.folders.working_copy import store_of
from clipdre.models.load import usable_devices

# Seconds between two looks for results to put into a store, and that many times what a look took.
PAUSE, REST = 5.0, 4.0


def open_engine(
    config: EngineConfig, device: str, output: Path, inputs: Sequence[str] = ()
) -> tuple[Engine, int | None]:
    """Return the engine of a run that writes to `output`, and the CPUs of a worker if it sets them.

    Parameters
    ----------
    inputs : sequence of str
        Paths or URLs that are read.

    Raises
    ------
    UsageError, ModelError, OutputError
        As `clipdre.engines.open.open_ray`.
    """
    if config.name is EngineName.LOCAL:
        return local_engine(usable_devices(device)), None
    devices = usable_devices("cpu" if device == "cpu" else "auto")
    shared = store_of(output).shared or output
    engine = open_ray(config, device, devices, output=shared, inputs=inputs)
    return engine, engine.cpus


@dataclass(frozen=True)
class Followed:
    """An engine whose results are put into a store soon after they are on disk."""

    engine: Engine
    store: Store

    @property
    def devices(self) -> Sequence[str]:
        """See `Engine`."""
        return self.engine.devices

    def run(
        self, work: Work[Item, Result], items: Iterable[Item], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine`; `OutputError` if the store cannot be written to."""
        due = 0.0
        for found in self.engine.run(work, items, advance):
            if (begun := time.monotonic()) >= due:
                self.store.push()
                ended = time.monotonic()
                due = ended + max(PAUSE, REST * (ended - begun))
            yield found
        self.store.push()


def followed(engine: Engine, folder: ScoreFolder) -> Engine:
    """Return an engine that puts its results into the store of a score folder, if it has one."""
    return engine if isinstance(folder.store, NoStore) else Followed(engine, folder.store)
