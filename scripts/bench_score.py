"""End-to-end speed of scoring against the bare encoder, in pairs per second.

python scripts/bench_score.py                              # ViT-B-32 on a CPU, two minutes
python scripts/bench_score.py --model ViT-L-14 --device cuda --precision bf16 --pairs 20000
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from made_up import random_weights, write_shard
from PIL import Image
from scipy.stats import spearmanr

from clipdre.config import TINY_MODEL, EncodeConfig, Precision
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.models.encoder import OpenClipEncoder
from clipdre.models.load import DTYPES, load_encoder
from clipdre.pipelines.score import ScoreConfig, score
from clipdre.truth.pool import write_pool

SIDE = 512
COLUMNS = ("similarity", "log_ratio", "kl_text")


@contextmanager
def loaded(encoder: OpenClipEncoder) -> Iterator[None]:
    """Make runs use this encoder, so that rates exclude loading the model."""
    with patch("clipdre.pipelines.score.load_encoder", return_value=encoder):
        yield


def pairs_per_second(pairs: int, work: Callable[[], object]) -> float:
    """Measure the rate of one call, including its work on a GPU."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return pairs / (time.perf_counter() - started)


def bare(encoder: OpenClipEncoder, pixels: torch.Tensor, tokens: torch.Tensor) -> None:
    """Encode one batch as open_clip does: tensors in memory, captions at full context."""
    with torch.inference_mode():
        encoder.model.encode_image(pixels)
        encoder.model.encode_text(tokens)


def rates(
    encoder: OpenClipEncoder, shards: list[str], pairs: int, batch: int, repeats: int, workers: int
) -> dict[str, list[float]]:
    """Measure rates of the bare encoder and of whole runs, interleaved."""
    some = [encoder.preprocess(image) for image in _images(batch)]
    assert encoder.scaling is not None
    pixels = encoder.scaling(torch.stack(some).to(encoder.device)).to(encoder.dtype)
    tokens = encoder.tokenizer(["a photo of a dog"] * batch).to(encoder.device)
    found: dict[str, list[float]] = {"bare encoder": []}
    for _ in range(repeats):
        found["bare encoder"].append(pairs_per_second(batch, lambda: bare(encoder, pixels, tokens)))
        config = ScoreConfig(encode=EncodeConfig(batch_size=batch, workers=workers))
        with tempfile.TemporaryDirectory() as output, loaded(encoder):
            found.setdefault("clipdre score", []).append(
                pairs_per_second(pairs, lambda: score(shards, Path(output) / "s", config))  # noqa: B023
            )
    return found


def _images(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return [Image.fromarray(noise)] * count


def score_table(
    model: str,
    device: str,
    precisions: list[Precision],
    pairs: int,
    batch: int,
    repeats: int,
    workers: int,
) -> None:
    """Print pairs per second, and ratios to the bare encoder in the first precision."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = random_weights(model, folder / "weights.pt")
        shards = [str(folder / "00000.tar")]
        write_shard(Path(shards[0]), pairs, SIDE)
        print(f"\n{model} on {device}, {pairs:,} pairs of {SIDE} px JPEGs, batches of {batch}\n")
        print(
            "| precision | | pairs/s | times the bare encoder, same precision "
            f"| times the bare encoder in {precisions[0].value} |\n|---|---|---|---|---|"
        )
        first = None
        for precision in precisions:
            encoder = load_encoder(EncodeConfig(model, weights, device, precision))
            runs = repeats if first is None else 1
            measured = rates(encoder, shards, pairs, batch, runs, workers)
            own = median(measured["bare encoder"])
            first = first or own
            for name, values in measured.items():
                rate = median(values)
                print(
                    f"| {precision.value} | {name} | {rate:.1f} | {rate / own:.2f} "
                    f"| {rate / first:.2f} |",
                    flush=True,
                )


def product_table(device: str) -> None:
    """Print the speed of matrix products, which dominate the encoder, in each precision."""
    print(f"\nproducts of an MLP of ViT-B-32 on {device}\n")
    print("| precision | times fp32 |\n|---|---|")
    seconds: dict[Precision, list[float]] = {}
    for _ in range(9):
        for precision, dtype in DTYPES.items():
            rows = torch.ones(6400, 768, dtype=dtype, device=device)
            weights = torch.ones(3072, 768, dtype=dtype, device=device)
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weights).sum().item()
            seconds.setdefault(precision, []).append(time.perf_counter() - started)
    for precision, values in seconds.items():
        print(f"| {precision.value} | {median(seconds[Precision.FP32]) / median(values):.2f} |")


def precision_table(pairs: int, device: str) -> None:
    """Print the effect of half precision on the scores of the embedded model, which is trained."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pool(folder / "pool", pairs, seed=2, noise={})
        shards = sorted(str(path) for path in (folder / "pool").glob("*.tar"))
        found: dict[Precision, pa.Table] = {}
        for precision in (Precision.FP32, Precision.BF16, Precision.FP16):
            config = ScoreConfig(encode=EncodeConfig(TINY_MODEL, None, device, precision))
            output = ScoreFolder(folder / precision.value)
            manifest = score(shards, output.path, config)
            found[precision] = pa.concat_tables(
                pq.read_table(output.scores(shard.name)) for shard in manifest.shards
            )
    print(f"\n{TINY_MODEL}, {pairs:,} pairs, against fp32\n")
    print("| precision | column | rms difference | rank correlation | top 30 % shared |")
    print("|---|---|---|---|---|")
    for precision in (Precision.BF16, Precision.FP16):
        for column in COLUMNS:
            exact, half = (found[p][column].to_numpy() for p in (Precision.FP32, precision))
            rms = np.sqrt(np.mean((exact - half) ** 2))
            best = [set(np.argsort(values)[-pairs * 3 // 10 :]) for values in (exact, half)]
            shared = len(best[0] & best[1]) / len(best[0])
            print(
                f"| {precision.value} | {column} | {rms:.4f} "
                f"| {spearmanr(exact, half)[0]:.5f} | {shared:.1%} |"
            )


def main(
    model: str = "ViT-B-32",
    device: str = "cpu",
    precision: Annotated[
        list[Precision] | None, typer.Option(help="The first is the baseline.")
    ] = None,
    pairs: int = 256,
    batch_size: int = 128,
    repeats: int = 3,
    workers: int = 2,
) -> None:
    """Print three tables."""
    chosen = precision or [Precision.FP32, Precision.BF16]
    score_table(model, device, chosen, pairs, batch_size, repeats, workers)
    product_table(device)
    precision_table(2000, device)


if __name__ == "__main__":
    typer.run(main)
