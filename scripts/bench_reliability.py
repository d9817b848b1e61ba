"""What the reliability of a pool says about the truth, where the truth is known.

python scripts/bench_reliability.py                   # three minutes
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import clipdre
from clipdre.demo import TRUTHS, demo_encode_config
from clipdre.truth.pool import write_pool


def rows(pairs: int, seed: int) -> list[tuple[str, ...]]:
    """Score a clean pool of the truth world; return the table's rows."""
    encode = demo_encode_config("cpu", workers=2)
    with tempfile.TemporaryDirectory() as folder:
        planted = write_pool(Path(folder) / "pool", pairs, seed, noise={})
        scores = clipdre.score([f"{folder}/pool"], Path(folder) / "scores", encode=encode)
        table = scores.dataset().to_table(columns=["shard", "key", *TRUTHS])
        assert table["key"].to_pylist() == planted.key
        found = []
        for column, truth in TRUTHS.items():
            r = np.corrcoef(table[column].to_numpy(), planted.truths[truth])[0, 1]
            reliability = scores.manifest.pool_reliability[column]
            found.append((f"{pairs:,}", column, f"{reliability:.3f}", f"{r**2:.3f}"))
        return found


def main(
    pairs: Annotated[list[int], typer.Option(help="Sizes of pools.")] = [300, 1000, 6000],  # noqa: B006
    seed: int = 5,
) -> None:
    """Print one table."""
    print("| pairs | column | pool reliability | squared correlation with the truth |")
    print("|---|---|---|---|")
    for size in pairs:
        for row in rows(size, seed):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
