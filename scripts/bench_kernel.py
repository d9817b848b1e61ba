"""Rate of the fused kernel of estimation against the bare product of the same matrices.

python scripts/bench_kernel.py                     # needs a CUDA device; a minute
python scripts/bench_kernel.py --sweep             # and which block sizes are fastest
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch
import typer
from torch import Tensor

from clipdre.core import fused

ROWS, REFERENCES = 16_384, 65_536
DIMS = (512, 768, 1152)
BLOCKS = list(itertools.product((64, 128), (64, 128, 256), (32, 64), (8, 32)))


def milliseconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time of a call on the device, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def vectors(rows: int, d: int) -> Tensor:
    """Draw unit vectors on the device, float32 of shape (rows, d)."""
    drawn = torch.randn(rows, d, device="cuda")
    return drawn / drawn.norm(dim=1, keepdim=True)


def main(*, sweep: bool = False) -> None:
    """Print the kernel's share of the rate of a product in fp16, and of the fastest blocks."""
    print("| d | product, TFLOP/s | kernel, TFLOP/s | share |\n|---|---|---|---|")
    for d in DIMS:
        queries, references = 100 * vectors(ROWS, d), vectors(REFERENCES, d)
        halves = queries.half(), references.half()
        bare = milliseconds(lambda: halves[0] @ halves[1].T)  # noqa: B023
        own = milliseconds(lambda: fused.tile_partition(queries, references, 0.0))  # noqa: B023
        flops = 2 * ROWS * REFERENCES * d / 1e9
        print(f"| {d} | {flops / bare:.0f} | {flops / own:.0f} | {bare / own:.2f} |", flush=True)
    if not sweep:
        return
    queries, references = 100 * vectors(ROWS, 768), vectors(REFERENCES, 768)
    print("\n| queries | references | depth | walk | ms |\n|---|---|---|---|---|")
    found = []
    for sizes in BLOCKS:
        names = dict(zip(("QUERIES", "REFERENCES", "DEPTH", "WALK"), sizes, strict=True))
        try:
            with patch.multiple(fused, **names):
                took = milliseconds(lambda: fused.tile_partition(queries, references, 0.0), 3)
        except Exception as error:
            print(f"| {' | '.join(map(str, sizes))} | {type(error).__name__} |", flush=True)
            continue
        found.append((took, sizes))
    for took, sizes in sorted(found):
        print(f"| {' | '.join(map(str, sizes))} | {took:.2f} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
