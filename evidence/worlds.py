"""Worlds of drawn scenes whose density ratios are known in closed form: a small and a large one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clipdre.truth.render import (
    IMAGE_SIZE,
    RGB,
    Outline,
    draw_background,
    draw_shape,
    render_scene,
)
from clipdre.truth.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    LEADS,
    SHAPES,
    SIZES,
    Attribute,
    Mentions,
    Pairs,
    Values,
    describe,
)

Nats = npt.NDArray[np.float64]
HEIGHTS = ("high", "middle", "low")
FRAMES = ("red", "blue", "green", "yellow", "purple", "cyan")
FRAME_WIDTH = 3


@dataclass(frozen=True)
class World:
    """A distribution of scenes and captions, as `clipdre.truth.world` describes it.

    Attributes
    ----------
    attributes : tuple of Attribute
        Drawn independently, and mentioned independently.
    describe : callable
        Makes a caption of the values and of what is mentioned, both of shape (attributes,).
    render : callable
        Draws the values as an image; what it adds at random is independent of the caption.
    """

    attributes: tuple[Attribute, ...]
    describe: Callable[[Values, Mentions], str]
    render: Callable[[Values, np.random.Generator], Image.Image]

    @property
    def scenes(self) -> int:
        """Number of scenes."""
        return math.prod(len(attribute.values) for attribute in self.attributes)

    def draw(self, n: int, rng: np.random.Generator) -> Pairs:
        """Draw `n` independent matching pairs."""
        values = np.stack(
            [rng.choice(len(a.prior), size=n, p=a.prior) for a in self.attributes], axis=1
        ).astype(np.int64)
        mentioned = rng.random(values.shape) < np.array([a.mention for a in self.attributes])
        leads = rng.integers(len(LEADS), size=n)
        captions = [
            LEADS[lead] + self.describe(v, m)
            for lead, v, m in zip(leads, values, mentioned, strict=True)
        ]
        return Pairs(values, mentioned, captions)

    def log_ratio(self, pairs: Pairs) -> Nats:
        """Compute ``log p(i,t) / p(i)p(t)`` of each matching pair, shape (n,), in nats."""
        bits = [
            -np.log(np.array(a.prior))[pairs.values[:, k]] for k, a in enumerate(self.attributes)
        ]
        ratio: Nats = (np.stack(bits, axis=1) * pairs.mentioned).sum(axis=1)
        return ratio

    def prompts(self) -> dict[str, list[str]]:
        """Return a caption for each value of each attribute, which mentions nothing else."""
        return {
            attribute.name: [self._prompt(k, v) for v in range(len(attribute.values))]
            for k, attribute in enumerate(self.attributes)
        }

    def _prompt(self, attribute: int, value: int) -> str:
        values = np.zeros(len(self.attributes), np.int64)
        values[attribute] = value
        return self.describe(values, np.arange(len(values)) == attribute)


def _prior(n: int) -> tuple[float, ...]:
    """Return Zipf's law over `n` values, with the exponent of the small world."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -0.8
    return tuple(float(w) for w in weights / weights.sum())


def _objects(side: str, mentions: tuple[float, float, float, float]) -> tuple[Attribute, ...]:
    shape, colour, size, height = mentions
    return (
        Attribute(f"{side} shape", SHAPES, _prior(len(SHAPES)), shape),
        Attribute(f"{side} colour", COLOURS, _prior(len(COLOURS)), colour),
        Attribute(f"{side} size", SIZES, (0.7, 0.3), size),
        Attribute(f"{side} height", HEIGHTS, _prior(len(HEIGHTS)), height),
    )


TWO_OBJECTS = (
    *_objects("left", (0.8, 0.6, 0.3, 0.25)),
    *_objects("right", (0.7, 0.5, 0.25, 0.2)),
    Attribute("background", BACKGROUNDS, _prior(len(BACKGROUNDS)), 0.25),
    Attribute("frame", FRAMES, _prior(len(FRAMES)), 0.25),
)


def describe_two(values: Values, mentioned: Mentions) -> str:
    """Return a caption of two objects that says only what is mentioned; both of shape (10,)."""
    words = [
        attribute.values[value] if is_mentioned else ""
        for attribute, value, is_mentioned in zip(TWO_OBJECTS, values, mentioned, strict=True)
    ]
    parts = [
        " ".join(filter(None, (side, size, colour, shape, height)))
        for side, (shape, colour, size, height) in (("left", words[:4]), ("right", words[4:8]))
        if any((shape, colour, size, height))
    ]
    background, frame = words[8:]
    parts += [f"on {background}"] if background else []
    parts += [f"framed in {frame}"] if frame else []
    return ", ".join(parts) or "things"


def render_two(values: Values, rng: np.random.Generator) -> Image.Image:
    """Draw a scene of two objects, `values` of shape (10,), as a 64 x 64 RGB image."""
    image = draw_background(BACKGROUNDS[values[8]], rng)
    draw = ImageDraw.Draw(image)
    last = IMAGE_SIZE - 1
    draw.rectangle((0, 0, last, last), outline=_shade(FRAMES[values[9]], rng), width=FRAME_WIDTH)
    for middle, (shape, colour, size, height) in ((17, values[:4]), (47, values[4:8])):
        radius = rng.uniform(7, 8) if SIZES[size] == "small" else rng.uniform(11, 12)
        centre = (middle + rng.uniform(-1, 1), 17 + 15 * int(height) + rng.uniform(-1.5, 1.5))
        outline = Outline(centre, radius, rng.uniform(-0.15, 0.15))
        draw_shape(draw, SHAPES[shape], outline, _shade(COLOURS[colour], rng))
    return image


def _shade(colour: str, rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(RGB[colour]) + rng.integers(-12, 13, size=3), 0, 255)
    return int(red), int(green), int(blue)


SMALL = World(ATTRIBUTES, describe, render_scene)
LARGE = World(TWO_OBJECTS, describe_two, render_two)
