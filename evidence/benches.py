"""A pool, its teachers' scores, and the test that its students take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import clipdre
from evidence.pools import CLEAN, POOLS, TEST_SEED, Drawn, PoolPlan, clean_pairs
from evidence.students import IMAGE_SIZE, Pairs, Recipe, Rows, Student, Trainer, encode
from evidence.teachers import SEED, TEACHERS, score_student

TEST_PAIRS = 3000
TARGET_PAIRS = 2000


@dataclass(frozen=True)
class Marks:
    """What a student can do.

    Attributes
    ----------
    accuracy : float
        Mean accuracy over attributes.
    macro : float
        Mean recall over the values of each attribute, then over attributes.
    attributes : mapping
        Accuracy by attribute.
    """

    accuracy: float
    macro: float
    attributes: Mapping[str, float]


class Bench(Protocol):
    """A pool, its scores, and the test that its students take."""

    @property
    def name(self) -> str:
        """Name of the pool."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How students are trained."""
        ...

    @property
    def pairs(self) -> Pairs:
        """The pool as students see it."""
        ...

    @property
    def clean(self) -> npt.NDArray[np.bool_] | npt.NDArray[np.float64]:
        """Whether each row is a clean pair, or a copy of one; NaN where that is not known."""
        ...

    @property
    def trainer(self) -> Trainer:
        """Trains the students."""
        ...

    def scores(self, teacher: str) -> clipdre.Scores:
        """Return the pool's scores by a teacher."""
        ...

    def target(self, teacher: str) -> Path:
        """Return the scores of pairs that stand for a target."""
        ...

    def usable(self, rows: Rows) -> Rows:
        """Return the rows that students may see."""
        ...

    def judge(self, student: Student) -> Marks:
        """Test a student."""
        ...


@dataclass(frozen=True)
class WorldBench:
    """A pool of a world below `folder`, drawn and scored when first asked for."""

    plan: PoolPlan
    folder: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of the pool."""
        return self.plan.name

    @cached_property
    def pairs(self) -> Pairs:
        """The pool as students see it."""
        if not (self.folder / "truth.parquet").exists():
            drawn = self.plan.draw()
            np.save(_made(self.folder) / "images.npy", pixels(drawn.images))
            drawn.write(self.folder)
        captions = self._truth["caption"].to_pylist()
        return Pairs(np.load(self.folder / "images.npy"), captions)

    @property
    def _truth(self) -> pa.Table:
        return pq.read_table(self.folder / "truth.parquet")

    @cached_property
    def kinds(self) -> npt.NDArray[np.object_]:
        """What was planted in each row."""
        assert len(self.pairs)
        kinds: npt.NDArray[np.object_] = self._truth["kind"].to_numpy(zero_copy_only=False)
        return kinds

    @cached_property
    def clean(self) -> npt.NDArray[np.bool_]:
        """Whether each row is a clean pair, or a copy of one."""
        clean: npt.NDArray[np.bool_] = np.isin(self.kinds, (CLEAN, "duplicate"))
        return clean

    @cached_property
    def trainer(self) -> Trainer:
        """Trains the students."""
        return Trainer(self.pairs, self.recipe)

    def scores(self, teacher: str) -> clipdre.Scores:
        """Return the pool's scores by a teacher."""
        output = self.folder / "scores" / teacher
        if not (output / "done.json").exists():
            self._score(teacher, output)
            (output / "done.json").write_text(json.dumps(teacher))
        return clipdre.open_scores(output)

    def target(self, teacher: str) -> Path:
        """Return the scores of clean pairs by a teacher."""
        return self.folder / "scores" / f"{teacher}-target"

    def _score(self, name: str, output: Path) -> None:
        teacher = TEACHERS[name]
        target = clean_pairs(self.plan.world, TARGET_PAIRS, TEST_SEED + 1)
        if model := teacher.model_below(self.folder.parent):
            target.write(self.folder / "target")
            assert len(self.pairs)  # which are on disk now
            self._score_with(model, self.folder / "target", self.target(name))
            self._score_with(model, self.folder, output)
            return
        learned = self.pairs
        if teacher.clean:
            learned = as_pairs(clean_pairs(self.plan.world, len(self.pairs), TEST_SEED + 2))
        trainer = Trainer(learned, teacher.recipe)
        student = trainer.train(np.arange(len(learned)), SEED)
        score_student(trainer, student, as_pairs(target), self.target(name), teacher.scale)
        score_student(trainer, student, self.pairs, output, teacher.scale)

    def _score_with(self, model: str, source: Path, output: Path) -> None:
        clipdre.score(source / "shards", output, model=model, device="cpu", overwrite=True)

    @cached_property
    def _test(self) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        rng = np.random.default_rng(TEST_SEED)
        values = self.plan.world.draw(TEST_PAIRS, rng).values
        images = [self.plan.world.render(scene, rng) for scene in values]
        return torch.from_numpy(pixels(images)), values

    def usable(self, rows: Rows) -> Rows:
        """Return the rows that students may see: all."""
        return rows

    def predictions(self, student: Student) -> tuple[dict[str, Rows], Rows]:
        """Classify held-out scenes by the captions of the values of each attribute.

        Returns
        -------
        predicted : dict of int64 arrays of shape (n,)
            Number of the predicted value, by attribute.
        values : int64 array of shape (n, attributes)
            The true ones.
        """
        images, values = self._test
        predicted = {}
        for name, prompts in self.plan.world.prompts().items():
            vectors, texts = encode(student, images, self.trainer.vocabulary(prompts))
            predicted[name] = (vectors @ texts.T).argmax(dim=1).numpy()
        return predicted, values

    def judge(self, student: Student) -> Marks:
        """Compute the student's zero-shot accuracy on held-out scenes."""
        return marks(*self.predictions(student))


def marks(predicted: Mapping[str, Rows], values: Rows) -> Marks:
    """Compare the predicted values of each attribute with the true ones, a column each."""
    accuracy, recalls = {}, []
    for k, (name, guess) in enumerate(predicted.items()):
        right = guess == values[:, k]
        accuracy[name] = float(right.mean())
        recalls.append(np.mean([right[values[:, k] == v].mean() for v in np.unique(values[:, k])]))
    return Marks(float(np.mean(list(accuracy.values()))), float(np.mean(recalls)), accuracy)


def pixels(images: list[Image.Image]) -> npt.NDArray[np.uint8]:
    """Return images as students see them, uint8 of shape (n, 3, size, size)."""
    small = [
        np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
        for image in images
    ]
    return np.ascontiguousarray(np.stack(small).transpose(0, 3, 1, 2))


def as_pairs(drawn: Drawn) -> Pairs:
    """Return drawn pairs as students see them."""
    return Pairs(pixels(drawn.images), drawn.captions)


def bench(name: str, work: Path, recipe: Recipe) -> WorldBench:
    """Return the bench of a known pool."""
    return WorldBench(POOLS[name], work / name, recipe)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
