"""Engines of a Ray cluster whose machines are known to fit together, and what runs without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from clipdre.config import EngineConfig, EngineName
from clipdre.engines.base import Engine
from clipdre.errors import OutputError
from clipdre.formats.files.storage import TEMPORARY_PREFIX, local_path
from clipdre.words import one_line

if TYPE_CHECKING:
    from clipdre.engines.ray import RayEngine


def open_ray(
    config: EngineConfig,
    device: str,
    devices: Sequence[str],
    *,
    output: Path | None = None,
    inputs: Sequence[str] = (),
) -> RayEngine:
    """Return the engine of a cluster, all of whose nodes see what is read and written.

    Parameters
    ----------
    device, devices
        As for `clipdre.engines.ray.connect`.
    output : Path or None
        Folder on a disk that is written to; it need not exist.
    inputs : sequence of str
        Paths or URLs that are read; of many, the first and the last are looked for on every node.

    Raises
    ------
    UsageError, ModelError, OutputError
        With the node and what is wrong there, before anything is done.
    """
    from clipdre.engines.nodes import check_nodes  # noqa: PLC0415
    from clipdre.engines.ray import connect  # noqa: PLC0415

    engine = connect(config.address, config.cpus_per_worker, device, devices)
    local = [path for url in inputs if (path := local_path(url)) is not None]
    with nullcontext() if output is None else _witness(output) as witness:
        seen = [] if witness is None else [witness]
        check_nodes(engine.gpus, engine.cpus, [*seen, *local[:1], *local[-1:]])
    return engine


def open_cpus(
    config: EngineConfig,
    here: Engine,
    *,
    output: Path | None = None,
    inputs: Sequence[str] = (),
) -> Engine:
    """Return `here`, or the engine of a cluster, for work that needs no model.

    By default each CPU of the cluster is a worker. Otherwise as `open_ray`.
    """
    if config.name is EngineName.LOCAL:
        return here
    config = replace(config, cpus_per_worker=config.cpus_per_worker or 1)
    return open_ray(config, "cpu", ("cpu",), output=output, inputs=inputs)


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
