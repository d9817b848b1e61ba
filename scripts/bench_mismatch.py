"""How well each score finds captions that belong to another image.

python scripts/bench_mismatch.py                      # a minute
python scripts/bench_mismatch.py --pairs 20000
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from bench_accuracy import LAWS
from scipy.stats import rankdata

import clipdre
from clipdre.truth.embeddings import EmbeddingWorld, MismatchedPool, draw_mismatched

COLUMNS = ("similarity", "log_ratio", "negcliploss", "kl_image", "kl_text")
SHARE = 0.3


def scores(pool: MismatchedPool, folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns of the pairs that are judged."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / "embeddings" / name).mkdir(parents=True)
    np.save(folder / "embeddings/img_emb/img_emb_0.npy", pool.images)
    np.save(folder / "embeddings/text_emb/text_emb_0.npy", pool.texts)
    keys = [f"{row:09d}" for row in range(len(pool.images))]
    pq.write_table(pa.table({"key": keys}), folder / "embeddings/metadata/metadata_0.parquet")
    scored = clipdre.score_embeddings(folder / "embeddings", folder / "scores", logit_scale=100.0)
    table = scored.dataset().to_table(columns=list(COLUMNS))
    return {name: table[name].to_numpy()[: pool.judged] for name in COLUMNS}


def area(values: npt.NDArray[np.float64], mismatched: npt.NDArray[np.bool_]) -> float:
    """Return the probability that a matching pair has a higher score than a mismatched one."""
    ranks = rankdata(values)
    matching, wrong = (~mismatched).sum(), mismatched.sum()
    return float((ranks[~mismatched].sum() - matching * (matching + 1) / 2) / (matching * wrong))


def rows(name: str, law: EmbeddingWorld, pairs: int, seed: int) -> list[tuple[str, ...]]:
    """Return the table's rows for one world: with the owners of wrong captions, and without."""
    pools = draw_mismatched(law, pairs, SHARE, np.random.default_rng(seed))
    found = []
    for owner, pool in zip(("kept", "absent"), pools, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            columns = scores(pool, Path(folder))
        areas = [f"{area(columns[column], pool.mismatched):.3f}" for column in COLUMNS]
        found.append((name, str(seed), owner, *areas))
    return found


def main(pairs: int = 5000, seeds: int = 2) -> None:
    """Print one table of areas under the ROC curve."""
    names = ("law", "seed", "owner", *COLUMNS)
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for name, law in LAWS.items():
        for seed in range(seeds):
            for row in rows(name, law, pairs, seed):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
