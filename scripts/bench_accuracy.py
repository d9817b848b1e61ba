"""Error and cost of each reference method against exact.

python scripts/bench_accuracy.py                                  # 40,000 pairs
python scripts/bench_accuracy.py --laws 4                         # as in docs/estimators.md
python scripts/bench_accuracy.py --pairs 1000000 --laws 1         # takes 15 minutes
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
import typer
from made_up import model_record
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.modality import Modality
from clipdre.engines.local import InProcess
from clipdre.estimating.estimate import Columns, Estimator
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.folders.embeddings import EmbeddingFiles, StoredPool
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hash
from clipdre.truth.embeddings import EmbeddingWorld

D = 512
LAWS = {
    "noise 0.4": EmbeddingWorld(D, 0.4),
    "noise 0.2": EmbeddingWorld(D, 0.2),
    "noise 0.6": EmbeddingWorld(D, 0.6),
    "noise 0.6, flat": EmbeddingWorld(D, 0.6, gap=1.5, within=0.4),
}
MODEL = model_record(D)
COLUMNS = ("log_ratio", "kl_image", "kl_text")
CHUNK = 50_000


def stored_pool(law: EmbeddingWorld, pairs: int, folder: Path) -> StoredPool:
    """Write a pool to disk, drawn in chunks of one shard each."""
    rng = np.random.default_rng(7)
    count = -(-pairs // CHUNK)
    files = [EmbeddingFiles(folder, n, count) for n in range(count)]
    for n, file in enumerate(files):
        size = min(CHUNK, pairs - n * CHUNK)
        images, texts = law.draw(size, rng)
        rows = {
            name: pa.nulls(size, SAMPLE_SCHEMA.field(name).type) for name in SAMPLE_SCHEMA.names
        }
        hashes = [key_hash(str(n), str(row)) for row in range(size)]
        rows["key_hash"] = pa.array(hashes, pa.uint64())
        samples = pa.table(rows, schema=SAMPLE_SCHEMA)
        file.write(images.astype(np.float16), texts.astype(np.float16), samples, {})
    return StoredPool(files)


def run(
    pool: StoredPool, hashes: np.ndarray, config: EstimateConfig, folder: Path, rows: int
) -> tuple[Columns, float, float, float]:
    """Return columns of the first rows, seconds to build and to estimate, and share of products."""
    started = time.perf_counter()
    reference = ReferenceFolder(folder)
    leaders = leaders_of(pool, hashes, MODEL, config.alike, reference, InProcess("cpu"))
    record = build_reference(pool, hashes, leaders, MODEL, config, reference)
    built = time.perf_counter() - started
    started = time.perf_counter()
    estimator = Estimator(ReferenceFolder(folder), MODEL)
    images, texts = (pool.read(modality, 0, rows) for modality in Modality)
    columns = estimator.estimates(images, texts, hashes[:rows], len(pool)).columns
    near = [n.share * len(pool) + n.cells for n in record.near.values()]
    cost = 1.0 if record.method == "exact" else (np.mean(near or [0]) + record.bulk) / len(pool)
    return columns, built, time.perf_counter() - started, float(cost)


def compared(found: Columns, truth: Columns, column: str) -> tuple[float, ...]:
    """Compute rmse, rank correlation, share within 2 se, claimed reliability and true r2."""
    se, error = found[f"{column}_se"], found[column] - truth[column]
    within = np.mean((np.abs(error) <= 2 * se) | (np.abs(error) <= 0.01))
    claimed = 1 - np.mean(se**2) / np.var(found[column])
    r2 = np.corrcoef(found[column], truth[column])[0, 1] ** 2
    rank = spearmanr(found[column], truth[column])[0]
    return float(np.sqrt(np.mean(error**2))), float(rank), float(within), float(claimed), float(r2)


def draw(points: list[tuple[str, str, float, float]], path: Path) -> None:
    """Plot the error of the KLs against cost, for near and bulk and for the uniform sample."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, marker, near in (("near and bulk", "o", True), ("uniform sample", "s", False)):
        chosen = [(c, e) for n, w, c, e in points if n.startswith("kl") and ("near" in w) == near]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), marker=marker, label=label)
    axes.set_yscale("log")
    axes.axhline(0.06, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("products per query, as a share of exact")
    axes.set_ylabel("error of kl_image and kl_text (rmse, nats)")
    axes.legend()
    figure.savefig(path, dpi=110)


def main(
    pairs: int = 40_000,
    rows: int = 4000,
    laws: Annotated[int, typer.Option(help="Number of the four laws to run.")] = 1,
    sampled: Annotated[bool, typer.Option(help="Also run the uniform sample.")] = True,
    curve: Annotated[bool, typer.Option(help="Also run other sizes of near and bulk.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Plot error against cost into this file.")
    ] = None,
) -> None:
    """Print one table."""
    torch.manual_seed(0)
    names = ("law", "way", "cost", "build,s", "estimate,s", "column", "rmse", "rank")
    names += ("within-2-se", "claimed", "true-r2")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    points: list[tuple[str, str, float, float]] = []
    peak = 0.0
    ways = [EstimateConfig(ReferenceMethod.STRATIFIED)]
    if curve:
        sizes = ((512, 2048), (1024, 2048), (4096, 2048), (2048, 512), (2048, 8192))
        ways += [EstimateConfig(ReferenceMethod.STRATIFIED, n, b) for n, b in sizes]
    if sampled:
        ways += [EstimateConfig(ReferenceMethod.SAMPLE, bulk=b) for b in (2048, 8192)]
    for name, law in list(LAWS.items())[:laws]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            pool = stored_pool(law, pairs, folder / "embeddings")
            hashes = np.concatenate([file.hashes() for file in pool.shards])
            # Exact runs last, since it maps the whole pool and the peak is that of the others.
            runs = [run(pool, hashes, c, folder / str(n), rows) for n, c in enumerate(ways)]
            peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
            exact = EstimateConfig(ReferenceMethod.EXACT)
            truth, _, seconds, _ = run(pool, hashes, exact, folder / "exact", rows)
            print(f"| {name} | exact | 1 | | {seconds:.1f} | | | | | | |", flush=True)
            for config, (found, built, seconds, cost) in zip(ways, runs, strict=True):
                near = config.method is ReferenceMethod.STRATIFIED
                way = f"near {config.neighbors}, " * near + f"bulk {config.bulk}"
                for column in COLUMNS:
                    figures = compared(found, truth, column)
                    points.append((column, way, cost, figures[0]))
                    print(
                        f"| {name} | {way} | {cost:.3f} | {built:.1f} | {seconds:.1f} | {column} "
                        "| {:.4f} | {:.5f} | {:.1%} | {:.4f} | {:.4f} |".format(*figures),
                        flush=True,
                    )
    if plot is not None:
        draw(points, plot)
    print(
        f"\n{pairs:,} pairs, {rows:,} rows, d {D}, scale {MODEL.logit_scale:g}; peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    typer.run(main)
