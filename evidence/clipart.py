"""The second pool: clip-art and emoji that no one drew for this, with noise of the same kinds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import webdataset as wds
from PIL import Image

import clipdre
from clipdre.truth.pool import UNINFORMATIVE
from evidence.benches import as_pairs
from evidence.own import OwnBench
from evidence.pools import CLEAN, REALISTIC, Drawn, kinds_of
from evidence.students import Recipe, Trainer
from evidence.teachers import SEED, score_student

SIZE = 64
TEST_PAIRS = 500
TEACHER_STEPS = 1000


def read(folder: Path) -> tuple[list[Image.Image], list[str]]:
    """Read all pairs, on white and of one size."""
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    images, captions = [], []
    for sample in wds.WebDataset(tars, shardshuffle=False, empty_check=False):
        image = Image.open(io.BytesIO(sample["png"])).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        images.append(Image.alpha_composite(white, image).convert("RGB").resize((SIZE, SIZE)))
        captions.append(sample["txt"].decode())
    return images, captions


def corrupted(folder: Path, seed: int = 0) -> tuple[Drawn, Drawn]:
    """Return a pool with planted noise, and clean pairs that are not in it.

    Wrong captions are those of other pairs of the pool.
    """
    images, captions = read(folder)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    test, rows = order[:TEST_PAIRS], order[TEST_PAIRS:]
    kinds = kinds_of(len(rows), REALISTIC, rng)
    pool = Drawn([images[r] for r in rows], [captions[r] for r in rows], kinds, _unknown(rows))
    clean = np.flatnonzero(kinds == CLEAN)
    for row in np.flatnonzero(kinds == "mismatched"):
        pool.captions[row] = captions[rng.choice(rows)]
    for row in np.flatnonzero(kinds == "uninformative"):
        pool.captions[row] = str(rng.choice(UNINFORMATIVE))
    for row in np.flatnonzero(kinds == "blank"):
        red, green, blue = (int(c) for c in rng.integers(0, 256, size=3))
        pool.images[row] = Image.new("RGB", (SIZE, SIZE), (red, green, blue))
    for row in np.flatnonzero(kinds == "duplicate"):
        original = int(rng.choice(clean))
        pool.images[row], pool.captions[row] = pool.images[original], pool.captions[original]
    held_out = Drawn(
        [images[r] for r in test],
        [captions[r] for r in test],
        kinds_of(len(test), {}, rng),
        _unknown(test),
    )
    return pool, held_out


def bench(source: Path, work: Path, recipe: Recipe) -> OwnBench:
    """Return the pool, scored by a student of its own noisy pairs."""
    pool, held_out = corrupted(source)
    pairs, output = as_pairs(pool), work / "scores"
    if not (output / "manifest.json").exists():
        trainer = Trainer(pairs, Recipe(steps=TEACHER_STEPS))
        student = trainer.train(np.arange(len(pairs)), SEED)
        score_student(trainer, student, pairs, output)
    clean = np.isin(pool.kinds, (CLEAN, "duplicate"))
    scores = clipdre.open_scores(output)
    return OwnBench("clipart", scores, pairs, recipe, as_pairs(held_out), clean)


def _unknown(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.full(len(rows), np.nan)
