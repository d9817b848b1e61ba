"""Speed of exact against bare products and the published code, and of stratified against exact.

python scripts/bench_estimate.py                           # four minutes
python scripts/bench_estimate.py --device cuda --rows 1000000 --pairs 1000000 --published-rows 0
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from bench_accuracy import MODEL, stored_pool
from made_up import model_record
from torch import Tensor

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.core.reliability import reliability
from clipdre.engines.local import InProcess
from clipdre.estimating.estimate import Columns, Estimator, estimate_rows
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.folders.embeddings import StoredPool
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.truth.embeddings import EmbeddingWorld

SCALE = MODEL.logit_scale
TILES = {"cpu": (1024, 2048), "cuda": (16_384, 32_768)}


def published(queries: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Compute one direction as in the paper: full matrix, separate passes for each quantity.

    In float64. A query's own counterpart has the index of the query.
    """
    logits = SCALE * (queries @ references.T)
    pairs = logits.diagonal().clone()
    logits.diagonal().fill_(float("-inf"))
    log_m = float(np.log(logits.shape[1] - 1))
    found = {"log_ratio": pairs - (torch.logsumexp(logits, dim=1) - log_m)}
    finite = logits.masked_fill(logits == float("-inf"), 0.0)
    weights = torch.softmax(logits, dim=1)
    found["kl"] = (weights * finite).sum(dim=1) - (torch.logsumexp(logits, dim=1) - log_m)
    mean = finite.sum(dim=1) / (logits.shape[1] - 1)
    found["klr"] = torch.logsumexp(logits, dim=1) - log_m - mean
    found["ess"] = 1 / torch.softmax(logits, dim=1).square().sum(dim=1)
    own = queries - queries.mean(dim=0)
    covariance = torch.cov(references.T, correction=0)
    found["dw"] = SCALE**2 * torch.linalg.vecdot(own @ covariance, own)
    found["dc"] = SCALE**2 * torch.linalg.vecdot(own, own)
    return found


def bare(queries: Tensor, references: Tensor) -> None:
    """Compute the products alone, in the same tiles as clipdre."""
    tile = TILES[queries.device.type]
    for rows in torch.split(queries, tile[0]):
        for columns in torch.split(references, tile[1]):
            torch.mm(rows, columns.T)


def scored(pool: StoredPool, hashes: np.ndarray, estimator: Estimator, rows: int) -> Columns:
    """Compute all columns of the first rows, and the reliability of columns with errors."""
    columns = estimate_rows(pool, hashes, estimator, 0, rows).columns
    for name, values in columns.items():
        if f"{name}_se" in columns:
            reliability(values, columns[f"{name}_se"])
    return columns


def seconds(work: Callable[[], object]) -> float:
    """Measure the wall time of one call, including its work on a GPU."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def exact_table(
    rows: int, pairs: int, d: int, repeats: int, published_rows: int, device: torch.device
) -> None:
    """Print the cost of exact, the bare products and the published way."""
    on_cpu = device.type == "cpu"
    dtype = torch.float32 if on_cpu else torch.bfloat16
    name = f"bare {'fp32' if on_cpu else 'bf16'} products"
    with tempfile.TemporaryDirectory() as temporary:
        pool = stored_pool(EmbeddingWorld(d, 0.4), pairs, Path(temporary) / "embeddings")
        hashes = np.concatenate([file.hashes() for file in pool.shards])
        reference = ReferenceFolder(Path(temporary) / "reference")
        exact = EstimateConfig(ReferenceMethod.EXACT)
        build_reference(pool, hashes, np.arange(pairs), model_record(d, SCALE), exact, reference)
        estimator = Estimator(reference, model_record(d, SCALE), device)
        images, texts = (pool.read(modality, 0, pairs) for modality in Modality)
        i, t = images.to(device, dtype), texts.to(device, dtype)
        times: dict[str, list[float]] = {name: [], "clipdre, exact": []}
        for _ in range(repeats):
            times["clipdre, exact"].append(seconds(lambda: scored(pool, hashes, estimator, rows)))
            times[name].append(seconds(lambda: (bare(i[:rows], t), bare(t[:rows], i))))
        if published_rows:
            i, t = images.double(), texts.double()
            part = slice(published_rows)
            both = seconds(lambda: (published(i[part], t), published(t[part], i)))
            times["published way, float64"] = [both * rows / published_rows]
    own = median(times["clipdre, exact"])
    print(f"\n{rows:,} pairs against {pairs:,}, d {d}, both directions, all columns\n")
    print("| | seconds | times clipdre's |\n|---|---|---|")
    for way, measured in times.items():
        print(f"| {way} | {median(measured):.2f} | {median(measured) / own:.2f} |")
    own_ratio = own / median(times[name])
    print(f"\nclipdre takes {own_ratio:.2f} times the bare products.", flush=True)


def parts_of(profile: cProfile.Profile) -> dict[str, float]:
    """Return the seconds spent in each part of the stratified method, from a profile."""
    named = {
        "find_leaders": "copies",
        "build_reference": "build cells",
        "near": "choose cells",
        "_near": "near",
        "_folds": "bulk",
    }
    found = dict.fromkeys(named.values(), 0.0)
    for (file, _, name), entry in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "clipdre" in file and name in named:
            found[named[name]] += entry[3]
    return found


def stratified_table(sizes: list[int], d: int, exact_rows: int) -> None:
    """Print the cost of stratified against exact, and of its parts, at several pool sizes."""
    print(f"\nstratified, whole pool, d {d}; exact is timed on {exact_rows:,} rows and scaled\n")
    parts = ("copies", "build cells", "choose cells", "near", "bulk")
    print(f"| pairs | near share | {' | '.join(parts)} | all | exact | ratio | growth |")
    print("|---" * 11 + "|")
    before: tuple[int, float] | None = None
    for pairs in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            pool = stored_pool(EmbeddingWorld(d, 0.4), pairs, Path(temporary) / "embeddings")
            hashes = np.concatenate([file.hashes() for file in pool.shards])
            profile = cProfile.Profile()
            stratified, exact = (ReferenceFolder(Path(temporary) / way) for way in "se")
            started = time.perf_counter()
            with profile:
                config, model = EstimateConfig(ReferenceMethod.STRATIFIED), model_record(d, SCALE)
                leaders = leaders_of(
                    pool, hashes, model, config.alike, stratified, InProcess("cpu")
                )
                record = build_reference(pool, hashes, leaders, model, config, stratified)
                scored(pool, hashes, Estimator(stratified, model_record(d, SCALE)), pairs)
            own = time.perf_counter() - started
            build_reference(
                pool, hashes, leaders, model, EstimateConfig(ReferenceMethod.EXACT), exact
            )
            rows = min(exact_rows, pairs)
            started = time.perf_counter()
            scored(pool, hashes, Estimator(exact, model_record(d, SCALE)), rows)
            other = (time.perf_counter() - started) * pairs / rows
        power = (
            "" if before is None else f"N^{np.log(own / before[1]) / np.log(pairs / before[0]):.2f}"
        )
        before = pairs, own
        share = float(np.mean([near.share for near in record.near.values()]))
        shown = " | ".join(f"{value:.1f}" for value in parts_of(profile).values())
        print(
            f"| {pairs:,} | {share:.3f} | {shown} | {own:.1f} | {other:.1f} | {own / other:.3f} "
            f"| {power} |",
            flush=True,
        )


def auto_table(pairs: int, d: int, repeats: int) -> None:
    """Print what the default method costs against exact, at several logit scales."""
    print(f"\nthe default, {pairs:,} pairs, d {d}, whole pool, without the search for copies\n")
    print("| logit scale | chosen | default | exact | ratio |\n|---|---|---|---|---|")
    ways = (ReferenceMethod.AUTO, ReferenceMethod.EXACT)
    with tempfile.TemporaryDirectory() as temporary:
        pool = stored_pool(EmbeddingWorld(d, 0.4), pairs, Path(temporary) / "embeddings")
        hashes = np.concatenate([file.hashes() for file in pool.shards])
        for scale in (1.0, 10.0, 100.0):
            model, chosen = model_record(d, scale), ""
            times: dict[ReferenceMethod, list[float]] = {way: [] for way in ways}
            for n in range(repeats):
                for way in ways:
                    folder = ReferenceFolder(Path(temporary) / f"{way.value}-{scale}-{n}")
                    started = time.perf_counter()
                    record = build_reference(
                        pool, hashes, np.arange(pairs), model, EstimateConfig(way), folder
                    )
                    scored(pool, hashes, Estimator(folder, model), pairs)
                    times[way].append(time.perf_counter() - started)
                    chosen = record.method if way is ReferenceMethod.AUTO else chosen
            own, exact = (median(times[way]) for way in ways)
            shown = f"{own:.1f} | {exact:.1f} | {own / exact:.2f}"
            print(f"| {scale:g} | {chosen} | {shown} |", flush=True)


def main(
    rows: int = 20_000,
    pairs: int = 25_600,
    d: int = 768,
    repeats: int = 3,
    published_rows: Annotated[
        int, typer.Option(help="Rows to time and scale up; 0 to skip.")
    ] = 5000,
    device: str = "cpu",
    stratified: Annotated[list[int] | None, typer.Option(help="Pool sizes.")] = None,
) -> None:
    """Print three tables; the second has a row for each --stratified."""
    torch.manual_seed(0)
    exact_table(rows, pairs, d, repeats, published_rows, torch.device(device))
    if device == "cpu":
        stratified_table(stratified or [25_000, 50_000, 100_000], d, 8192)
        auto_table(40_000, d, repeats)


if __name__ == "__main__":
    typer.run(main)
