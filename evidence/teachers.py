"""Models that score pools: the embedded one, and students of clean or of noisy pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import clipdre
from evidence.students import Pairs, Recipe, Student, Trainer, encode

SEED = 1000  # of teachers; students have small ones


@dataclass(frozen=True)
class Teacher:
    """A model that scores a pool.

    Attributes
    ----------
    model : str or None
        A model as `clipdre.score` takes it; None is a student, trained here.
    pretrained : str or None
        Its weights.
    clean : bool
        Whether it learns from clean pairs, which are not in the pool, or from the pool as it is.
    steps : int
        Training steps.
    """

    model: str | None = None
    pretrained: str | None = None
    clean: bool = True
    steps: int = 1000

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return Recipe(steps=self.steps)


TEACHERS = {
    "clipdre-tiny": Teacher("clipdre-tiny"),
    "strong": Teacher(),
    "weak": Teacher(steps=250),
    "own": Teacher(clean=False),
}


def score_student(trainer: Trainer, student: Student, pairs: Pairs, output: Path) -> None:
    """Score pairs with a student, through embeddings in clip-retrieval's layout."""
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
    clipdre.score_embeddings(source, output, logit_scale=student.scale.item(), overwrite=True)
