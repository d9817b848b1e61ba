"""Pools of shards with noise of known kinds, and held-out samples to judge students by."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds
from PIL import Image

from clipdre.truth.pool import UNINFORMATIVE
from clipdre.truth.world import Pairs
from evidence.worlds import LARGE, SMALL, World

CLEAN = "clean"
SHARD_SIZE = 4000
TEST_SEED = 10_000
# Shares of the mixture that crawled pools are said to be made of; the rest is clean.
REALISTIC = {"mismatched": 0.34, "uninformative": 0.15, "blank": 0.05, "duplicate": 0.01}
COPIED = 400  # pairs that a heavily duplicated pool repeats
# Made-up languages; none shares a word with ours.
DIALECTS = ("backwards", "doubled", "spelled")
Rng = np.random.Generator


@dataclass(frozen=True)
class PoolPlan:
    """A pool to draw.

    Attributes
    ----------
    name : str
    world : World
    pairs : int
    noise : mapping
        Share of each kind of noise; the rest is clean.
    seed : int
    """

    name: str
    world: World
    pairs: int = 16_000
    noise: Mapping[str, float] = field(default_factory=lambda: REALISTIC)
    seed: int = 0

    def draw(self) -> Drawn:
        """Draw the pool's pairs and plant its noise."""
        rng = np.random.default_rng(self.seed)
        pairs = self.world.draw(self.pairs, rng)
        drawn = Drawn(
            [self.world.render(values, rng) for values in pairs.values],
            list(pairs.captions),
            kinds_of(self.pairs, self.noise, rng),
            self.world.log_ratio(pairs),
        )
        _plant(drawn, self.world, pairs, rng)
        return drawn


@dataclass
class Drawn:
    """Pairs in pool order.

    Attributes
    ----------
    images : list of PIL images
    captions : list of str
    kinds : array of str
    truths : float64 array
        True log ratio of clean pairs and their copies in nats; NaN for noise.
    """

    images: list[Image.Image]
    captions: list[str]
    kinds: npt.NDArray[np.object_]
    truths: npt.NDArray[np.float64]

    def write(self, folder: Path) -> None:
        """Write shards below `folder`, and what is true of each pair beside them."""
        shards = folder / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        names, keys = [], []
        for start in range(0, len(self.images), SHARD_SIZE):
            name = f"{start // SHARD_SIZE:05d}"
            with wds.TarWriter(str(shards / f"{name}.tar")) as tar:
                for row in range(start, min(start + SHARD_SIZE, len(self.images))):
                    keys.append(f"{row:08d}")
                    names.append(name)
                    tar.write(
                        {
                            "__key__": keys[-1],
                            "png": _png(self.images[row]),
                            "txt": self.captions[row],
                        }
                    )
        truth = {
            "shard": names,
            "key": keys,
            "caption": self.captions,
            "kind": list(self.kinds),
            "true_log_ratio": self.truths,
        }
        pq.write_table(pa.table(truth), folder / "truth.parquet")


POOLS = {
    plan.name: plan
    for plan in (
        PoolPlan("small", SMALL),
        PoolPlan("large", LARGE),
        PoolPlan(
            "partly-wrong", LARGE, noise={**REALISTIC, "mismatched": 0.1, "partly wrong": 0.24}
        ),
        PoolPlan("dialects", LARGE, noise={**REALISTIC, "mismatched": 0.1, "dialect": 0.24}),
        PoolPlan("copies", LARGE, noise={**REALISTIC, "mismatched": 0.19, "duplicate": 0.40}),
    )
}


def kinds_of(n: int, noise: Mapping[str, float], rng: Rng) -> npt.NDArray[np.object_]:
    """Return the kind of each pair, in random order."""
    planted = [kind for kind, share in noise.items() for _ in range(round(share * n))]
    kinds = np.array(planted + [CLEAN] * (n - len(planted)), dtype=object)
    rng.shuffle(kinds)
    return kinds


def _plant(drawn: Drawn, world: World, pairs: Pairs, rng: Rng) -> None:
    """Replace rows by the noise that the kinds call for, in place; copies come last."""
    others = world.draw(len(pairs), rng)
    copied = np.flatnonzero(drawn.kinds == CLEAN)[:COPIED]
    for row in np.flatnonzero((drawn.kinds != CLEAN) & (drawn.kinds != "duplicate")).tolist():
        kind = drawn.kinds[row]
        drawn.truths[row] = np.nan
        if kind == "mismatched":
            drawn.captions[row] = others.captions[contradicting(others, pairs.values[row], row)]
        elif kind == "uninformative":
            drawn.captions[row] = str(rng.choice(UNINFORMATIVE))
        elif kind == "blank":
            red, green, blue = (int(c) for c in rng.integers(0, 256, size=3))
            drawn.images[row] = Image.new("RGB", drawn.images[row].size, (red, green, blue))
        elif kind == "partly wrong":
            drawn.captions[row] = partly_wrong(world, pairs, row, rng)
        elif kind == "dialect":
            drawn.captions[row] = dialect(drawn.captions[row], str(rng.choice(DIALECTS)))
        else:
            raise ValueError(f"no such noise: {kind}")
    for row in np.flatnonzero(drawn.kinds == "duplicate").tolist():
        original = int(rng.choice(copied))
        drawn.images[row], drawn.captions[row] = drawn.images[original], drawn.captions[original]
        drawn.truths[row] = drawn.truths[original]


def contradicting(pairs: Pairs, scene: npt.NDArray[np.int64], start: int) -> int:
    """Return the first row from `start` on, cyclically, whose caption contradicts the scene."""
    rows = np.roll(np.arange(len(pairs)), -start)
    for row in rows:
        if (pairs.values[row] != scene)[pairs.mentioned[row]].any():
            return int(row)
    raise ValueError("no caption contradicts the scene")


def partly_wrong(world: World, pairs: Pairs, row: int, rng: Rng) -> str:
    """Return the caption with one of the mentioned values replaced by another one.

    A caption that mentions nothing gets a wrong value.
    """
    values, mentioned = pairs.values[row].copy(), pairs.mentioned[row].copy()
    wrong = int(rng.choice(np.flatnonzero(mentioned) if mentioned.any() else len(values)))
    choices = len(world.attributes[wrong].values)
    values[wrong] = (values[wrong] + rng.integers(1, choices)) % choices
    mentioned[wrong] = True
    return world.describe(values, mentioned)


def dialect(caption: str, name: str) -> str:
    """Return the caption in a made-up language, which shares no word with ours."""
    words = caption.split()
    if name == "backwards":
        return " ".join(word[::-1] for word in words)
    if name == "doubled":
        return " ".join(f"{word}{word}" for word in reversed(words))
    return " ".join(f"q{word}z" for word in words)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def clean_pairs(world: World, n: int, seed: int) -> Drawn:
    """Draw pairs without noise, which no pool has."""
    return PoolPlan("", world, n, {}, seed).draw()
