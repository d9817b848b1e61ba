"""The engine that a run of a model asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipdre.config import EngineConfig, EngineName
from clipdre.engines.base import Engine
from clipdre.engines.local import local_engine
from clipdre.engines.open import open_ray
from clipdre.models.load import usable_devices


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
    engine = open_ray(config, device, devices, output=output, inputs=inputs)
    return engine, engine.cpus
