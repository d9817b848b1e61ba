"""Ray clusters of several raylets on this machine, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clipdre.config import EngineConfig, EngineName

# A node that is gone is noticed after a second, not after half a minute.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}
# Marks of modules that use Ray: nothing may hang, and Ray opens sockets and files that it closes
# when the process ends.
RAY = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::ResourceWarning")]
MEMORY = 80 * 1024 * 1024


def with_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that uses Ray, in a module of others."""
    for mark in RAY:
        test = mark(test)
    return test


@contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """A head without CPUs, and `nodes` with one CPU each; this process is not connected yet."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'clipdre[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            add_node(cluster)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Let a node with one CPU join."""
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)


def on(cluster: Any) -> EngineConfig:
    """The engine of a cluster."""
    return EngineConfig(EngineName.RAY, cluster.address)


def kill_raylet(node: Any) -> None:
    """End a node as a power failure does."""
    for process in node.all_processes["raylet"]:
        process.process.kill()
