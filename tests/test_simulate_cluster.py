"""The simulation of clusters agrees with what can be calculated."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def simulation():
    path = Path(__file__).parents[1] / "scripts" / "simulate_cluster.py"
    spec = importlib.util.spec_from_file_location("simulate_cluster", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_cluster"] = module
    spec.loader.exec_module(module)
    return module


def even(simulation, **others):
    return simulation.Cluster(spread=0, stragglers=0, lifetime=1e12, start=0, **others)


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_equal_workers_divide_the_time(simulation, workers):
    cluster = even(simulation, rate=100, shard=1000)
    for run in (simulation.by_ray, simulation.by_slices):
        assert run(cluster, 24, workers) == (pytest.approx(240 / workers), 0)


def test_storage_limits_all_workers_together(simulation):
    cluster = even(simulation, rate=1e9, shard=1000, nbytes=1000, storage=1e5)
    for workers in (1, 4, 16):
        assert simulation.by_ray(cluster, 16, workers)[0] == pytest.approx(16 * 1e6 / 1e5)


def test_a_straggler_holds_up_slices_more(simulation):
    cluster = simulation.Cluster(spread=0, stragglers=0.2, lifetime=1e12, start=0)
    ray, slices = (f(cluster, 1000, 10)[0] for f in (simulation.by_ray, simulation.by_slices))
    assert ray < 0.6 * slices


def test_lost_workers_do_their_shard_again(simulation):
    cluster = simulation.Cluster(spread=0, stragglers=0, lifetime=0.01, start=1)
    end, again = simulation.by_ray(cluster, 200, 4)
    assert again > 0
    assert end > 200 / 4 * 10_000 / 3000
