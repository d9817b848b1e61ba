"""Fixtures: one scored pool for every test that only reads it, and real shards."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from clipdre.core.reliability import TRUSTED_POOL
from clipdre.formats.folders.manifest import Manifest
from clipdre.truth.pool import write_pool
from tests.clusters_of_ray import cluster_of
from tests.helpers import tiny_score, unmeasured

# Machines that run tests may be busy: speed is measured elsewhere.
settings.register_profile("clipdre", deadline=None)
settings.load_profile("clipdre")

REAL_SHARDS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 clean pairs of the truth world in three shards."""
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, 300, seed=5, noise={}, shard_size=100)
    return folder


@pytest.fixture(scope="session")
def scored(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """`pool`, scored. It is too small to rank by most columns, which selections would warn of."""
    folder = tmp_path_factory.mktemp("scored") / "scores"
    manifest = tiny_score(pool, folder)
    assert 0.5 < manifest.pool_reliability["kl_text"] < TRUSTED_POOL
    return folder, unmeasured(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes, for tests that lose none of them."""
    with cluster_of(2) as found:
        yield found


@pytest.fixture(scope="session")
def real_shards() -> Path:
    """Shards that no one made for clipdre."""
    if not list(REAL_SHARDS.glob("*.tar")):
        pytest.skip(f"no real shards at {REAL_SHARDS}")
    return REAL_SHARDS


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables for an S3 server in another process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield {
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "SECRETKEY",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        process.kill()
