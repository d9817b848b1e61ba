"""Decode JPEGs on a GPU (nvJPEG, by torchvision) against Pillow on all cores, and how they differ.

python scripts/bench_jpeg.py                       # needs a CUDA device
"""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import typer
from made_up import photo
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from clipdre.cpus import usable_cpus

DRAWN = 64


def encoded(side: int) -> list[bytes]:
    """Draw some JPEGs whose longer side is `side`."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWN):
        buffer = io.BytesIO()
        photo(side, side * 3 // 4, rng).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def by_pillow(data: bytes) -> np.ndarray:
    """Decode one JPEG to bytes of shape (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def main(images: int = 2048, batch: int = 128) -> None:
    """Print images per second and the largest difference of a channel, of 255."""
    print("| side | Pillow, images/s | nvJPEG, images/s | times | mean difference | largest |")
    print("|---|---|---|---|---|---|")
    for side in (512, 1280):
        drawn = encoded(side)
        files = [drawn[n % DRAWN] for n in range(images)]
        start = time.perf_counter()
        with ThreadPoolExecutor(usable_cpus()) as pool:
            for _ in pool.map(by_pillow, files):
                pass
        on_cores = images / (time.perf_counter() - start)
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        decode_jpeg(tensors[:batch], ImageReadMode.RGB, device="cuda")  # a warm-up
        torch.cuda.synchronize()
        start = time.perf_counter()
        for first in range(0, images, batch):
            decode_jpeg(tensors[first : first + batch], ImageReadMode.RGB, device="cuda")
        torch.cuda.synchronize()
        on_device = images / (time.perf_counter() - start)
        found = decode_jpeg(tensors[:DRAWN], ImageReadMode.RGB, device="cuda")
        gaps = [
            np.abs(one.permute(1, 2, 0).cpu().numpy().astype(int) - by_pillow(data))
            for one, data in zip(found, drawn, strict=True)
        ]
        mean, largest = np.mean([gap.mean() for gap in gaps]), max(gap.max() for gap in gaps)
        print(
            f"| {side} | {on_cores:.0f} | {on_device:.0f} | {on_device / on_cores:.2f} "
            f"| {mean:.2f} | {largest} |",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
