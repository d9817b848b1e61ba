"""What makes the bare encoder faster on a device: precision, layout, compilation, graphs.

python scripts/bench_encoder.py --model ViT-B-32 --device cuda
python scripts/bench_encoder.py --device cpu --batch-size 16 --repeats 2 --no-compiled
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import typer
from bench_score import pairs_per_second
from made_up import random_weights

from clipdre.config import EncodeConfig, Precision
from clipdre.models.encoder import OpenClipEncoder
from clipdre.models.load import load_encoder


def rate(count: int, work: Callable[[], object], repeats: int) -> float:
    """Return rows per second, the median after a warm-up."""
    pairs_per_second(count, work)
    return median(pairs_per_second(count, work) for _ in range(repeats))


def ways(encoder: OpenClipEncoder, *, compiled: bool) -> dict[str, Callable[..., torch.Tensor]]:
    """Return ways to encode images and captions, by name; each takes a batch of inputs."""
    found: dict[str, Callable[..., torch.Tensor]] = {
        "images": encoder.model.encode_image,
        "captions, full context": encoder.model.encode_text,
    }
    if compiled:
        found["images, compiled"] = torch.compile(encoder.model.encode_image)
        found["images, compiled with graphs"] = torch.compile(
            encoder.model.encode_image, mode="reduce-overhead"
        )
        found["captions, compiled with graphs"] = torch.compile(
            encoder.model.encode_text, mode="reduce-overhead"
        )
    return found


@torch.inference_mode()
def main(
    model: str = "ViT-B-32",
    device: str = "cuda",
    batch_size: int = 512,
    repeats: int = 5,
    *,
    compiled: bool = True,
) -> None:
    """Print a table: rows per second by precision and way."""
    print(f"{model} on {device}, batches of {batch_size}\n")
    print("| precision | way | rows/s | start, s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(model, Path(folder) / "weights.pt")
        for precision in (Precision.FP16, Precision.BF16, Precision.FP32):
            if precision is Precision.FP16 and device == "cpu":
                continue
            encoder = load_encoder(EncodeConfig(model, weights, device, precision))
            size = encoder.image_size
            pixels = torch.rand(batch_size, 3, size, size, device=device, dtype=encoder.dtype)
            tokens = encoder.tokenizer(["a photo of a dog"] * batch_size).to(device)
            inputs = {"images": pixels, "captions": tokens}
            tried = {
                (name, name.split(",")[0]): way
                for name, way in ways(encoder, compiled=compiled).items()
            }
            for (name, kind), way in tried.items():
                start = time.perf_counter()
                way(inputs[kind])
                began = time.perf_counter() - start
                found = rate(batch_size, lambda: way(inputs[kind]), repeats)  # noqa: B023
                print(f"| {precision.value} | {name} | {found:.0f} | {began:.1f} |", flush=True)
            encoder.model.to(memory_format=torch.channels_last)
            last = pixels.to(memory_format=torch.channels_last)
            found = rate(batch_size, lambda: encoder.model.encode_image(last), repeats)  # noqa: B023
            print(f"| {precision.value} | images, channels last | {found:.0f} | |", flush=True)


if __name__ == "__main__":
    typer.run(main)
