"""Shards of the truth world with noise of known kinds in known proportions."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdre.truth.render import IMAGE_SIZE, render_scene
from clipdre.truth.world import (
    Mentions,
    Pairs,
    Values,
    sample_pairs,
    true_kl_image,
    true_kl_text,
    true_log_ratio,
)

CLEAN = "clean"
NOISE = {
    "mismatched": 0.30,
    "uninformative": 0.10,
    "blank": 0.10,
    "duplicate": 0.05,
    "undecodable": 0.005,
}
UNINFORMATIVE = ("image.jpg", "a photo", "IMG_2041.JPG", "untitled", "click to enlarge", "photo 1")
NOT_AN_IMAGE = b"<html><head><title>404 Not Found</title></head><body></body></html>"


@dataclass(frozen=True)
class PlantedPool:
    """Samples written by `write_pool`, one entry each, in shard order.

    Attributes
    ----------
    shard, key, kind : list of str
        `kind` is ``clean`` or one of `NOISE`.
    truths : dict of float64 arrays of shape (n,)
        ``true_log_ratio``, ``true_kl_image``, ``true_kl_text`` in nats; NaN for noise other than
        duplicates, which do not come from the world.
    """

    shard: list[str]
    key: list[str]
    kind: list[str]
    truths: dict[str, npt.NDArray[np.float64]]


def write_pool(
    folder: Path, n: int, seed: int, *, noise: dict[str, float], shard_size: int = 1000
) -> PlantedPool:
    """Write `n` pairs into `folder` as WebDataset tars.

    Parameters
    ----------
    noise : dict
        Share of each kind of noise; the rest is clean. Empty for a clean pool.
    """
    rng = np.random.default_rng(seed)
    pairs = sample_pairs(n, rng)
    kinds = _kinds(n, noise, rng)
    truths = {
        "true_log_ratio": true_log_ratio(pairs),
        "true_kl_image": true_kl_image(pairs),
        "true_kl_text": true_kl_text(pairs),
    }
    images = [_png(render_scene(values, rng)) for values in pairs.values]
    content = _Content(images, list(pairs.captions), truths)
    _plant(kinds, pairs, content, rng)
    shards, keys = [], []
    for start in range(0, n, shard_size):
        name = f"{start // shard_size:05d}"
        stop = min(start + shard_size, n)
        shards += [name] * (stop - start)
        keys += [f"{name}{row - start:04d}" for row in range(start, stop)]
        rows = slice(start, stop)
        _write_tar(folder / f"{name}.tar", keys[rows], images[rows], content.captions[rows])
    return PlantedPool(shards, keys, list(kinds), truths)


def _kinds(n: int, noise: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.str_]:
    planted = [kind for kind, share in noise.items() for _ in range(round(share * n))]
    kinds = np.array(planted + [CLEAN] * (n - len(planted)))
    rng.shuffle(kinds)
    return kinds


class _Content(NamedTuple):
    images: list[bytes]
    captions: list[str]
    truths: dict[str, npt.NDArray[np.float64]]


def _plant(
    kinds: npt.NDArray[np.str_], pairs: Pairs, content: _Content, rng: np.random.Generator
) -> None:
    """Replace rows by the noise that `kinds` calls for, in place."""
    images, captions, truths = content
    clean = np.flatnonzero(kinds == CLEAN)
    for row in np.flatnonzero(kinds != CLEAN):
        kind = kinds[row]
        for truth in truths.values():
            truth[row] = np.nan
        if kind == "mismatched":
            captions[row] = pairs.captions[_contradicting(pairs, pairs.values[row], rng)]
        elif kind == "uninformative":
            captions[row] = UNINFORMATIVE[rng.integers(len(UNINFORMATIVE))]
        elif kind == "blank":
            red, green, blue = (int(c) for c in rng.integers(0, 256, size=3))
            images[row] = _png(Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (red, green, blue)))
        elif kind == "duplicate":
            original = rng.choice(clean)
            images[row], captions[row] = images[original], captions[original]
            for truth in truths.values():
                truth[row] = truth[original]
        else:
            images[row] = NOT_AN_IMAGE if rng.random() < 0.5 else images[row][:60]


def _contradicting(pairs: Pairs, scene: Values, rng: np.random.Generator) -> int:
    """Return a random row whose caption contradicts `scene`."""
    while True:
        row = int(rng.integers(len(pairs)))
        mentioned: Mentions = pairs.mentioned[row]
        if (pairs.values[row] != scene)[mentioned].any():
            return row


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write_tar(path: Path, keys: list[str], images: list[bytes], captions: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image, caption in zip(keys, images, captions, strict=True):
            metadata = json.dumps(
                {"uid": md5(f"{path.stem}/{key}".encode(), usedforsecurity=False).hexdigest()}
            )
            members = {"png": image, "txt": caption.encode(), "json": metadata.encode()}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
