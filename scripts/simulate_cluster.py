"""Simulate the encoding of a large pool by 1 to 1,000 workers; print a table and draw a plot.

python scripts/simulate_cluster.py
python scripts/simulate_cluster.py --pairs 1e8 --rate 3000 --storage 5e9 --plot cluster.png

Items are handed out as workers finish, as `--engine ray` does, or divided beforehand as
slices are. Workers differ in speed, some are stragglers, and nodes are lost at random; what a lost
worker was doing is done again. Rates are arguments: nothing here is measured.
"""

from __future__ import annotations

import argparse
import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 250, 500, 1000)
HOUR = 3600.0
# Draws of workers that are averaged over.
DRAWS = 8


@dataclass(frozen=True)
class Cluster:
    """What a cluster is like.

    Attributes
    ----------
    rate : float
        Pairs per second of a usual worker.
    shard : float
        Pairs per shard.
    nbytes : float
        Bytes per pair.
    storage : float
        Bytes per second that the shared storage gives to all workers together.
    spread : float
        Standard deviation of the logarithm of a worker's speed.
    stragglers, slow : float
        Share of workers that are slower, and by which factor.
    lifetime : float
        Hours after which a worker is lost, on average.
    start : float
        Seconds that a worker takes to start, or to be replaced.
    """

    rate: float = 3000.0
    shard: float = 10_000.0
    nbytes: float = 30_000.0
    storage: float = 20e9
    spread: float = 0.1
    stragglers: float = 0.02
    slow: float = 3.0
    lifetime: float = 500.0
    start: float = 60.0

    def seconds(self, workers: int, rng: np.random.Generator) -> np.ndarray:
        """Return the seconds that each worker takes for a shard."""
        speed = np.exp(rng.normal(0, self.spread, workers))
        speed[rng.random(workers) < self.stragglers] /= self.slow
        reading = self.shard * self.nbytes * workers / self.storage  # all of them read at once
        return np.maximum(self.shard / (self.rate * speed), reading)


def by_ray(cluster: Cluster, shards: int, workers: int, seed: int = 0) -> tuple[float, int]:
    """Return seconds and the number of shards that were done twice, with items handed out."""
    return _run(cluster, [deque(range(shards))] * workers, workers, seed)


def by_slices(cluster: Cluster, shards: int, workers: int, seed: int = 0) -> tuple[float, int]:
    """Return the same for slices; a slice that is lost is started again by the scheduler."""
    queues = [deque(range(n, shards, workers)) for n in range(workers)]
    return _run(cluster, queues, workers, seed)


def _run(cluster: Cluster, queues: list[deque[int]], workers: int, seed: int) -> tuple[float, int]:
    rng = np.random.default_rng(seed)
    seconds = cluster.seconds(workers, rng)
    lost_at = rng.exponential(cluster.lifetime * HOUR, workers)
    events = [(cluster.start, worker) for worker in range(workers)]
    heapq.heapify(events)
    end, again = 0.0, 0
    while events:
        now, worker = heapq.heappop(events)
        if not queues[worker]:
            continue
        item, done = queues[worker].popleft(), now + seconds[worker]
        if done > lost_at[worker]:
            queues[worker].appendleft(item)
            again += 1
            now = max(now, lost_at[worker]) + cluster.start
            lost_at[worker] = now + rng.exponential(cluster.lifetime * HOUR)
            heapq.heappush(events, (now, worker))
            continue
        end = max(end, done)
        heapq.heappush(events, (done, worker))
    return end, again


def main() -> None:
    """Print the table, and draw the plot if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=float, default=1e9)
    parser.add_argument("--plot", help="file to draw into")
    for name, default in vars(Cluster()).items():
        parser.add_argument(f"--{name}", type=float, default=default)
    given = vars(parser.parse_args())
    pairs, plot = given.pop("pairs"), given.pop("plot")
    cluster = Cluster(**given)
    shards = int(pairs / cluster.shard)
    print(f"{'workers':>8}{'ray h':>10}{'slices h':>10}{'efficiency':>12}{'twice':>7}")
    rows = []
    for workers in WORKERS:
        ray, again = np.mean([by_ray(cluster, shards, workers, s) for s in range(DRAWS)], axis=0)
        slices, _ = np.mean([by_slices(cluster, shards, workers, s) for s in range(DRAWS)], axis=0)
        share = pairs / cluster.rate / workers / ray
        rows.append((workers, ray / HOUR, slices / HOUR))
        print(f"{workers:8}{ray / HOUR:10.2f}{slices / HOUR:10.2f}{share:12.0%}{again:7.1f}")
    if plot:
        draw(rows, pairs / cluster.rate / HOUR, plot)


def draw(rows: list[tuple[int, float, float]], alone: float, path: str) -> None:
    """Draw hours over workers."""
    workers, ray, slices = zip(*rows, strict=True)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.loglog(workers, [alone / n for n in workers], color="0.7", label="linear")
    axes.loglog(workers, ray, "o-", label="handed out (Ray)")
    axes.loglog(workers, slices, "s--", label="slices")
    axes.set(xlabel="workers", ylabel="hours")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
