"""Models that score pools: the embedded one, and students of clean or of noisy pairs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import clipdre
from evidence.students import Pairs, Recipe, Student, Trainer, encode

TRAIN_TINY = Path(__file__).parents[1] / "scripts" / "train_tiny.py"
SEED = 1000  # of teachers; students have small ones


@dataclass(frozen=True)
class Teacher:
    """A model that scores a pool.

    Attributes
    ----------
    model : str or None
        A model as `clipdre.score` takes it; None is a student, trained here.
    tiny_steps : int or None
        Training steps of a model like the embedded one, by the script that trained that; None is a
        student.
    clean : bool
        Whether a student learns from clean pairs, which are not in the pool, or from the pool as it
        is.
    steps : int
        Training steps of a student.
    scale : float
        Factor of a student's own logit scale.
    """

    model: str | None = None
    tiny_steps: int | None = None
    clean: bool = True
    steps: int = 1000
    scale: float = 1.0

    @property
    def recipe(self) -> Recipe:
        """How a student is trained."""
        return Recipe(steps=self.steps)

    def model_below(self, folder: Path) -> str | None:
        """Return the model as `clipdre.score` takes it, trained below `folder` if need be."""
        if self.tiny_steps is None:
            return self.model
        trained = folder.absolute() / f"tiny-{self.tiny_steps}"
        if not trained.exists():
            unfinished = trained.with_suffix(".unfinished")
            steps = ["-o", str(unfinished), "--steps", str(self.tiny_steps)]
            subprocess.run([sys.executable, str(TRAIN_TINY), *steps], check=True)  # noqa: S603 (ours)
            unfinished.rename(trained)
        return f"local-dir:{trained}"


TEACHERS = {
    "clipdre-tiny": Teacher("clipdre-tiny"),
    "tiny, a quarter": Teacher(tiny_steps=450),  # of the 1,800 steps of the embedded model
    "strong": Teacher(),
    "strong, half its scale": Teacher(scale=0.5),
    "strong, twice its scale": Teacher(scale=2.0),
    "weak": Teacher(steps=250),
    "own": Teacher(clean=False),
}


def score_student(
    trainer: Trainer, student: Student, pairs: Pairs, output: Path, factor: float = 1.0
) -> None:
    """Score pairs with a student, through embeddings in clip-retrieval's layout.

    `factor` is that of its logit scale.
    """
    tokens = trainer.vocabulary(pairs.captions)
    vectors = encode(student, torch.from_numpy(pairs.images), tokens)
    source = output.with_name(f"{output.name}-embeddings")
    for name, part in zip(("img_emb", "text_emb"), vectors, strict=True):
        (source / name).mkdir(parents=True, exist_ok=True)
        np.save(source / name / f"{name}_0.npy", part.numpy())
    (source / "metadata").mkdir(exist_ok=True)
    keys = [f"{row:08d}" for row in range(len(pairs))]
    table = pa.table({"key": keys, "caption": pairs.captions})
    pq.write_table(table, source / "metadata" / "metadata_0.parquet")
    scale = factor * student.scale.item()
    clipdre.score_embeddings(source, output, logit_scale=scale, overwrite=True)
