"""Nodes of a Ray cluster: joining it, and whether all nodes fit together."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipdre import __version__
from clipdre.errors import ModelError, OutputError, UsageError
from clipdre.words import one_line

# Seconds to wait for a node, and for the head of a cluster.
ANSWER, CONNECT = 60.0, 5.0
# Addresses that name no cluster.
ANY = ("auto", "local")
INSTALL = "pip install 'clipdre[ray]' on every node"


def load_ray() -> Any:
    """Return the module ray; `ModelError` if it is not installed."""
    try:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"`engine` ray needs Ray ({one_line(error)})", INSTALL) from error
    return ray


def join(address: str | None) -> None:
    """Connect this process to a cluster, unless it is connected already.

    Raises
    ------
    UsageError, ModelError
        If there is no cluster at the address, or this process is connected to another one.
    """
    ray = load_ray()
    place = address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        _check_same(ray.get_runtime_context().gcs_address, address)
        return
    _silence(ray)
    if place and "://" in place:
        cure = "start the command on a node of the cluster, with the HOST:PORT of its head"
        raise UsageError(f"`address` {place} is of Ray's client", cure)
    if place and place not in ANY:
        _check_reachable(place)
    try:
        with _handlers_kept():
            ray.init(address=place, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        problem = f"cannot join the Ray cluster at {place or 'this machine'} ({one_line(error)})"
        raise ModelError(problem, "check `address` and the versions of Ray and Python") from error


def _check_same(connected: str, address: str | None) -> None:
    """Refuse an address of another cluster; one host may have several names, a port has one."""
    if address is None or address in ANY:
        return
    _check_reachable(address)
    if connected.rpartition(":")[2] != address.rpartition(":")[2]:
        raise UsageError(
            f"this process is connected to the Ray cluster at {connected}, not to {address}",
            "call ray.shutdown() first, or leave `address` out",
        )


def _silence(ray: Any) -> None:
    """Keep Ray from printing what it notices on stdout, where only results belong.

    It has no public switch for that. Without this one, it prints; nothing else changes.
    """
    with suppress(AttributeError):
        ray._private.worker._worker_logs_enabled = False


def _check_reachable(place: str) -> None:
    """Refuse an address where nobody answers; Ray would try it for a long time."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ModelError(
            f"no Ray cluster at {place} ({one_line(error)})",
            "start one with 'ray start --head', or correct `address`",
        ) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Give signals back to those who handled them: Ray takes SIGTERM for itself."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        with suppress(ValueError):  # another thread than the main one
            for number, handler in kept.items():
                signal.signal(number, handler)


def fits(node: Mapping[str, Any], gpus: bool, cpus: int) -> bool:
    """Whether a node could hold an actor, if nothing else ran there."""
    resources = node["Resources"]
    return bool(
        node["Alive"] and resources.get("CPU", 0) >= cpus and resources.get("GPU", 0) >= gpus
    )


def check_nodes(gpus: bool, cpus: int, places: Sequence[Path]) -> None:
    """Refuse a node that runs another clipdre or does not see `places`, if it may hold an actor.

    Parameters
    ----------
    gpus, cpus
        What an actor takes, see `clipdre.engines.ray.RayEngine`.
    places : sequence of Path

    Raises
    ------
    ModelError, OutputError
        With the node's name and what differs there.
    """
    nodes = [node for node in load_ray().nodes() if fits(node, gpus, cpus)]
    here, paths = _versions(), [str(path) for path in places]
    for node, found in _asked(nodes, paths):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        if not isinstance(found, dict):
            problem = f"node {name} cannot run clipdre ({found})"
            raise ModelError(problem, INSTALL)
        for what, version in here.items():
            if found["versions"].get(what) != version:
                raise ModelError(
                    f"node {name} has {what} {found['versions'].get(what)}, this machine {version}",
                    "install the same versions on every node",
                )
        if found["unseen"]:
            raise OutputError(
                f"node {name} does not see {found['unseen'][0]}",
                "use a file system that all nodes share, under the same path",
            )


def _asked(nodes: list[Any], paths: list[str]) -> Iterator[tuple[Any, Any]]:
    """Yield each node with its answer, or why there is none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    def answer(paths: list[str]) -> object:  # inside, so that nodes without clipdre can run it
        import os  # noqa: PLC0415

        try:
            from clipdre.engines.nodes import _versions  # noqa: PLC0415
        except ImportError as error:
            return str(error)
        unseen = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110
        return {"versions": _versions(), "unseen": unseen}

    ray = load_ray()
    places = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes)
    asked = [
        ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(answer).remote(paths)
        for place in places
    ]
    for node, ref in zip(nodes, asked, strict=True):
        try:
            yield node, ray.get(ref, timeout=ANSWER)
        except ray.exceptions.GetTimeoutError:
            yield node, f"no answer within {ANSWER:.0f} seconds"
        except ray.exceptions.RayError as error:
            yield node, one_line(error)


def _versions() -> dict[str, str]:
    """Return what all nodes must have in common."""
    from importlib.metadata import version  # noqa: PLC0415

    return {"clipdre": __version__, **{n: version(n) for n in ("torch", "open_clip_torch")}}
