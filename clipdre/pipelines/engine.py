"""The engine that a run asks for, once all machines of it are known to fit together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from clipdre.config import EngineConfig, EngineName
from clipdre.engines.base import Advance, Engine, Item, Result, Work
from clipdre.engines.local import local_engine
from clipdre.errors import OutputError
from clipdre.formats.files.storage import TEMPORARY_PREFIX, local_path
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.store import NoStore, Store
from clipdre.formats.folders.working_copy import store_of
from clipdre.models.load import usable_devices
from clipdre.words import one_line

# Seconds between two looks for results to put into a store, and that many times what a look took.
PAUSE, REST = 5.0, 4.0


def open_engine(
    config: EngineConfig, device: str, output: Path, inputs: Sequence[str] = ()
) -> tuple[Engine, int | None]:
    """Return the engine of a run that writes to `output`, and the CPUs of a worker if it sets them.

    Parameters
    ----------
    inputs : sequence of str
        Paths or URLs that are read; of many, the first and the last are looked for on every node.

    Raises
    ------
    UsageError, ModelError, OutputError
        With the node and what is wrong there, before anything is done.
    """
    if config.name is EngineName.LOCAL:
        return local_engine(usable_devices(device)), None
    from clipdre.engines.nodes import check_nodes  # noqa: PLC0415
    from clipdre.engines.ray import connect  # noqa: PLC0415

    devices = usable_devices("cpu" if device == "cpu" else "auto")
    engine = connect(config.address, config.cpus_per_worker, device, devices)
    local = [path for url in inputs if (path := local_path(url)) is not None]
    with _witness(store_of(output).shared or output) as witness:
        check_nodes(engine.gpus, engine.cpus, [witness, *local[:1], *local[-1:]])
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
        self, work: Work[Item, Result], items: Sequence[Item], advance: Advance
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


@contextmanager
def _witness(output: Path) -> Iterator[Path]:
    """Yield a new file at or above `output`, which nodes see only if they share its file system."""
    nearest = next(
        path for path in (output.absolute(), *output.absolute().parents) if path.is_dir()
    )
    try:
        with NamedTemporaryFile(dir=nearest, prefix=f"{TEMPORARY_PREFIX}witness-") as file:
            yield Path(file.name)
    except OSError as error:
        raise OutputError(
            f"cannot write to {nearest} ({one_line(error)})", "choose another `output`"
        ) from error
