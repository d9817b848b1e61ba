"""How close `log_ratio` of plain and point-set heads is to the truth, at equal steps.

Trains both heads of `train_tiny.py` from scratch for each seed, scores a clean pool of the truth
world that neither has seen, and compares `log_ratio` with the true pointwise mutual information.

OMP_NUM_THREADS=1 python scripts/bench_point_set.py               # 22 minutes on one core
OMP_NUM_THREADS=1 python scripts/bench_point_set.py --jobs 3      # the same, side by side
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from train_tiny import Head, new_model, parameters, save, similarities_of, train, training_pool

import clipdre
from clipdre.truth.pool import write_pool

NAMES = ("Pearson", "MAE", "RMSE", "bias", "CPU seconds")
SCORED_SEED = 1_000_000
Floats = npt.NDArray[np.float64]


def figures(estimated: Floats, true: Floats) -> tuple[float, ...]:
    """Return correlation, mean absolute error, root mean square error and mean error, in nats."""
    error = estimated - true
    pearson = float(np.corrcoef(estimated, true)[0, 1])
    absolute, square = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    return pearson, absolute, square, float(error.mean())


def run(which: tuple[Head, int], sizes: tuple[int, int, int, int]) -> tuple[float, ...]:
    """Train one model, and return what `NAMES` says of its scores of a pool it has not seen."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(*which, sizes, Path(folder))


def _run(
    head: Head, seed: int, sizes: tuple[int, int, int, int], folder: Path
) -> tuple[float, ...]:
    pairs, steps, batch_size, scored = sizes
    model, preprocess, tokenizer = new_model(seed)
    images, tokens = training_pool(pairs, preprocess, tokenizer, np.random.default_rng(seed))
    started = time.process_time()
    train(
        model,
        images,
        tokens,
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        device="cpu",
        seed=seed,
        similarities=similarities_of(head),
    )
    seconds = time.process_time() - started
    save(model, tokens, folder / "model", head)
    truth = write_pool(folder / "pool", scored, SCORED_SEED + seed, noise={}).truths
    name = f"local-dir:{folder / 'model'}"
    table = clipdre.score(folder / "pool", folder / "scores", model=name).dataset().to_table()
    estimated = table["log_ratio"].to_numpy().astype(np.float64)
    found = (*figures(estimated, truth["true_log_ratio"]), seconds)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, found, strict=True))
    print(f"{head} {seed}: {parameters(model):,} parameters, {shown}", file=sys.stderr, flush=True)
    return found


def cell(values: Floats) -> str:
    """Return the mean of one figure over seeds, with its range."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def main(
    seeds: int = 3,
    steps: int = 600,
    batch_size: int = 64,
    pairs: Annotated[int, typer.Option(help="Pairs to train on.")] = 12_000,
    scored: Annotated[int, typer.Option(help="Clean pairs to score.")] = 3000,
    jobs: Annotated[int, typer.Option(help="Models trained at a time.")] = 1,
) -> None:
    """Print one row per head: means over seeds, with ranges."""
    sizes = (pairs, steps, batch_size, scored)
    every = [(head, seed) for seed in range(seeds) for head in Head]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as workers:
        found = dict(zip(every, workers.map(partial(run, sizes=sizes), every), strict=True))
    print("| head | " + " | ".join(NAMES) + " |\n" + "|---" * (1 + len(NAMES)) + "|")
    for head in Head:
        columns = np.array([found[head, seed] for seed in range(seeds)]).T
        print(f"| {head} | " + " | ".join(map(cell, columns)) + " |")


if __name__ == "__main__":
    typer.run(main)
