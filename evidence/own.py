"""A pool of one's own shards: students are judged by retrieval among pairs that are held out."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import clipdre
from clipdre import training
from evidence.benches import Marks, pixels
from evidence.students import Pairs, Recipe, Rows, Student, Trainer, encode

HELD_OUT = 1000  # pairs at most, and a tenth of the pool at most
SEED = 0
BEST = (1, 10)


@dataclass(frozen=True)
class OwnBench:
    """A scored pool.

    Attributes
    ----------
    name : str
    scored : clipdre.Scores
    pairs : Pairs
        The pool as students see it, row for row as the scores.
    recipe : Recipe
    test : Pairs or None
        Pairs to judge by, which are not in the pool. None: a random part of the pool, noise
        included, that no student sees.
    truth : bool array or None
        Whether each row is clean, where that is known.
    """

    name: str
    scored: clipdre.Scores
    pairs: Pairs
    recipe: Recipe
    test: Pairs | None = None
    truth: npt.NDArray[np.bool_] | None = None

    @cached_property
    def clean(self) -> npt.NDArray[np.bool_] | npt.NDArray[np.float64]:
        """Whether each row is clean; NaN where that is not known."""
        return np.full(len(self.scored), np.nan) if self.truth is None else self.truth

    @cached_property
    def trainer(self) -> Trainer:
        """Trains the students."""
        return Trainer(self.pairs, self.recipe)

    @cached_property
    def held_out(self) -> Rows:
        """Rows that no student sees."""
        if self.test is not None:
            return np.empty(0, np.int64)
        n = min(HELD_OUT, len(self.scored) // 10)
        return np.random.default_rng(SEED).permutation(len(self.scored))[:n]

    def scores(self, teacher: str) -> clipdre.Scores:  # noqa: ARG002 (it has one)
        """Return the pool's scores."""
        return self.scored

    def target(self, teacher: str) -> Path:  # noqa: ARG002 (it has one)
        """Return the scores that stand for a target: those of the pool itself."""
        folder: Path = self.scored.folder.path
        return folder

    def usable(self, rows: Rows) -> Rows:
        """Return the rows that students may see."""
        return rows[~np.isin(rows, self.held_out)]

    def judge(self, student: Student) -> Marks:
        """Find the caption of each held-out image, and the image of each caption."""
        if self.test is None:
            images, captions = self.pairs.images[self.held_out], self.pairs.captions
            captions = [captions[row] for row in self.held_out]
        else:
            images, captions = self.test.images, self.test.captions
        tokens = self.trainer.vocabulary(captions)
        return retrieval(*encode(student, torch.from_numpy(images), tokens))


def read_pairs(scores: clipdre.Scores) -> Pairs:
    """Read a scored pool from its tars, in pool order."""
    captions = scores.to_arrow(["caption"])["caption"].to_pylist()
    images = [pixels([_image(sample)])[0] for sample in training.dataset(scores, shuffle=0)]
    return Pairs(np.stack(images), captions)


def retrieval(images: torch.Tensor, texts: torch.Tensor) -> Marks:
    """Compute the share of pairs whose counterpart is among the best, the mean of both ways.

    The accuracy is that of the ten best. Ties count against the student.
    """
    logits = images @ texts.T
    own = logits.diagonal()
    ranks = [((m >= own[:, None]).sum(dim=1)).numpy() for m in (logits, logits.T)]
    found = {f"recall at {n}": float(np.mean([(rank <= n).mean() for rank in ranks])) for n in BEST}
    return Marks(found[f"recall at {BEST[-1]}"], found[f"recall at {BEST[0]}"], found)


def _image(sample: dict[str, object]) -> Image.Image:
    """Return the one image of a sample."""
    suffixes = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "avif")
    content = next(
        value for name, value in sample.items() if name.split(".")[-1].lower() in suffixes
    )
    assert isinstance(content, bytes)
    image = Image.open(io.BytesIO(content))
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
