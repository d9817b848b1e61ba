"""Importance-weighted learning: students of one domain, with and without weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import clipdre
from evidence.benches import WorldBench
from evidence.report import UNWEIGHTED, WEIGHTED
from evidence.stored import Results
from evidence.students import Rows, Student
from evidence.subsets import rows_of

TEACHER = "clipdre-tiny"
# Of the pool: its best pairs by log_ratio, about as many as there are clean ones.
BUDGET = 0.45
CLIP = 10.0
# None: no weights. Otherwise the scale of the logits, larger is sharper.
SHARPNESS = (None, 3.0, 10.0)

SCHEMA = pa.schema(
    {
        "pool": pa.string(),
        "teacher": pa.string(),
        "domain": pa.string(),
        "arm": pa.string(),
        "seed": pa.int64(),
        "steps": pa.int64(),
        "batch": pa.int64(),
        "inside": pa.float64(),
        "outside": pa.float64(),
        "inside_f1": pa.float64(),
        "ess": pa.float64(),
    }
)
KEY = ("pool", "teacher", "domain", "arm", "seed", "steps", "batch")


@dataclass(frozen=True)
class Domain:
    """Scenes with one value of one attribute, and the prompt that describes them."""

    attribute: str
    value: str
    prompt: str


DOMAINS = (
    Domain("shape", "star", "star"),
    Domain("colour", "brown", "brown thing"),
    Domain("shape", "circle", "circle"),
)


def results(folder: Path) -> Results:
    """Return the results of weighted students in a folder."""
    return Results(folder / WEIGHTED / "small.parquet", SCHEMA)


def run(bench: WorldBench, seeds: list[int], stored: Results) -> Iterator[dict[str, Any]]:
    """Train the students that `results` lacks; yield a row for each, once it is saved."""
    done = {tuple(row[name] for name in KEY) for row in stored.table().to_pylist()}
    for seed in seeds:
        for domain in DOMAINS:
            for sharpness in SHARPNESS:
                row = _named(bench, domain, sharpness, seed)
                if tuple(row[name] for name in KEY) not in done:
                    row |= _measured(bench, domain, sharpness, seed)
                    stored.add(row)
                    yield row


def _named(bench: WorldBench, domain: Domain, sharpness: float | None, seed: int) -> dict[str, Any]:
    return {
        "pool": bench.name,
        "teacher": TEACHER,
        "domain": domain.prompt,
        "arm": UNWEIGHTED if sharpness is None else f"weights, c = {sharpness:g}",
        "seed": seed,
        "steps": bench.recipe.steps,
        "batch": bench.recipe.batch,
    }


def _measured(
    bench: WorldBench, domain: Domain, sharpness: float | None, seed: int
) -> dict[str, float]:
    scores = bench.scores(TEACHER)
    rows = rows_of(scores, clipdre.select(scores, by="log_ratio", top=BUDGET).places)
    if sharpness is None:
        weights = None
    else:
        suffix = f"{domain.value}_{sharpness:g}"
        settings = {"prompt": (domain.prompt,), "logit_scale": sharpness}
        clipdre.measure(scores, "prompt-weight", suffix=suffix, settings=settings, device="cpu")
        column = scores.to_arrow([f"prompt_weight_{suffix}"])[0].to_numpy()
        weights = column[rows].astype(np.float32)
    student = bench.trainer.train(rows, seed, weights, clip=CLIP, normalize=True)
    return {**judge(bench, student, domain), "ess": _ess(weights, len(rows))}


def _ess(weights: Any, n: int) -> float:
    """Return the effective number of pairs, as a share."""
    if weights is None:
        return 1.0
    clipped = np.minimum(weights, CLIP)
    return float(clipped.sum() ** 2 / (clipped**2).sum() / n)


def judge(bench: WorldBench, student: Student, domain: Domain) -> dict[str, float]:
    """Judge the attributes that do not define the domain, inside and outside of it."""
    predicted, values = bench.predictions(student)
    names = list(predicted)
    k = names.index(domain.attribute)
    value = bench.plan.world.attributes[k].values.index(domain.value)
    inside = values[:, k] == value
    others = [n for n in range(len(names)) if n != k]
    right = np.stack([predicted[names[n]] == values[:, n] for n in others])
    f1 = [macro_f1(predicted[names[n]][inside], values[inside, n]) for n in others]
    return {
        "inside": float(right[:, inside].mean()),
        "outside": float(right[:, ~inside].mean()),
        "inside_f1": float(np.mean(f1)),
    }


def macro_f1(predicted: Rows, true: Rows) -> float:
    """Compute the mean F1 score over the values that occur."""
    scores = []
    for value in np.unique(true):
        both = ((predicted == value) & (true == value)).sum()
        scores.append(2 * both / ((predicted == value).sum() + (true == value).sum()))
    return float(np.mean(scores))
