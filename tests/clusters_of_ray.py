"""Ray clusters of several raylets on this machine, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# A node that is gone is noticed after a second, not after half a minute.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}
MEMORY = 80 * 1024 * 1024


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
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill_raylet(node: Any) -> None:
    """End a node as a power failure does."""
    for process in node.all_processes["raylet"]:
        process.process.kill()
