"""How close `log_ratio` of plain and point-set heads is to the truth, at equal steps.

Trains both heads of `train_tiny.py` from scratch for each seed, scores a clean pool of the truth
world that neither has seen, and compares `log_ratio` with the true pointwise mutual information.

OMP_NUM_THREADS=1 python scripts/bench_point_set.py     # 25 minutes on one core
OMP_NUM_THREADS=1 python scripts/bench_point_set.py --steps 600 --seeds 5
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from train_tiny import Head, new_model, parameters, save, similarities_of, train, training_pool

import clipdre
from clipdre.truth.pool import write_pool

NAMES = ("Pearson", "MAE", "RMSE", "bias", "seconds")
SCORED_SEED = 1_000_000
Floats = npt.NDArray[np.float64]


def figures(estimated: Floats, true: Floats) -> tuple[float, ...]:
    """Return correlation, mean absolute error, root mean square error and mean error, in nats."""
    error = estimated - true
    pearson = float(np.corrcoef(estimated, true)[0, 1])
    absolute, square = float(np.abs(error).mean()), float(np.sqrt((error**2).mean()))
    return pearson, absolute, square, float(error.mean())


def run(head: Head, seed: int, sizes: tuple[int, int, int, int], folder: Path) -> tuple[float, ...]:
    """Train one model, score a pool it has not seen, and return `NAMES`; training takes seconds."""
    pairs, steps, batch_size, scored = sizes
    model, preprocess, tokenizer = new_model(seed)
    images, tokens = training_pool(pairs, preprocess, tokenizer, np.random.default_rng(seed))
    started = time.monotonic()
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
    seconds = time.monotonic() - started
    save(model, tokens, folder / "model", head)
    truth = write_pool(folder / "pool", scored, SCORED_SEED + seed, noise={}).truths
    name = f"local-dir:{folder / 'model'}"
    table = clipdre.score(folder / "pool", folder / "scores", model=name).dataset().to_table()
    estimated = table["log_ratio"].to_numpy().astype(np.float64)
    print(f"{head} {seed}: {parameters(model):,} parameters, {seconds:.0f} s", file=sys.stderr)
    return (*figures(estimated, truth["true_log_ratio"]), seconds)


def cell(values: Floats) -> str:
    """Return the mean of one figure over seeds, with its range."""
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def main(
    seeds: int = 3,
    steps: int = 400,
    batch_size: int = 128,
    pairs: Annotated[int, typer.Option(help="Pairs to train on.")] = 20_000,
    scored: Annotated[int, typer.Option(help="Clean pairs to score.")] = 3000,
) -> None:
    """Print one row per head: means over seeds, with ranges."""
    sizes = (pairs, steps, batch_size, scored)
    print("| head | " + " | ".join(NAMES) + " |\n" + "|---" * (1 + len(NAMES)) + "|")
    for head in Head:
        found = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(head, seed, sizes, Path(folder)))
            print(head, seed, *(f"{v:.3f}" for v in found[-1]), file=sys.stderr)
        columns = np.array(found).T
        print(f"| {head} | " + " | ".join(map(cell, columns)) + " |", flush=True)


if __name__ == "__main__":
    typer.run(main)
