"""Draw scenes of the truth world as images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from clipdre.truth.world import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, Values

IMAGE_SIZE = 64

RGB = {
    "red": (220, 30, 35),
    "blue": (35, 60, 220),
    "green": (30, 150, 50),
    "yellow": (245, 215, 30),
    "purple": (130, 40, 160),
    "orange": (250, 130, 20),
    "cyan": (30, 205, 215),
    "brown": (120, 70, 30),
}
PLAIN = {"white": (250, 250, 250), "black": (12, 12, 12), "grey": (135, 135, 135)}
Point = tuple[float, float]


def render_scene(values: Values, rng: np.random.Generator) -> Image.Image:
    """Draw one scene, `values` of shape (5,), as a 64 x 64 RGB image.

    Place, radius, tilt, colour and brightness vary within each value. They are drawn from `rng`
    independently of the caption, so they carry no information about it.
    """
    shape, colour, size, position, background = (
        names[value]
        for names, value in zip(
            (SHAPES, COLOURS, SIZES, POSITIONS, BACKGROUNDS), values, strict=True
        )
    )
    image = draw_background(background, rng)
    radius = rng.uniform(9, 11) if size == "small" else rng.uniform(15, 17)
    centre = (
        (20 if "left" in position else 44) + rng.uniform(-2.5, 2.5),
        (20 if "top" in position else 44) + rng.uniform(-2.5, 2.5),
    )
    jitter = rng.integers(-12, 13, size=3)
    red, green, blue = (
        int(np.clip(c + j, 0, 255)) for c, j in zip(RGB[colour], jitter, strict=True)
    )
    outline = Outline(centre, radius, rng.uniform(-0.15, 0.15))
    draw_shape(ImageDraw.Draw(image), shape, outline, (red, green, blue))
    return image


def draw_background(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw one of `BACKGROUNDS` as a 64 x 64 RGB image, of a shade that varies."""
    shade = int(rng.integers(-8, 9))
    if name in PLAIN:
        red, green, blue = (min(255, max(0, c + shade)) for c in PLAIN[name])
        return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (red, green, blue))
    dark = (np.arange(IMAGE_SIZE) + int(rng.integers(8))) % 8 < 4
    rows = np.where(dark, 80 + shade, 205 + shade).astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None, None], IMAGE_SIZE, axis=1).repeat(3, axis=2))


class Outline(NamedTuple):
    """Where and how large a shape is, in pixels, and its tilt in radians."""

    centre: Point
    radius: float
    tilt: float


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, outline: Outline, fill: tuple[int, int, int]
) -> None:
    """Draw one of `SHAPES` in one colour."""
    centre, radius, tilt = outline
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=max(3, round(radius * 0.35)))
    elif shape == "square":
        draw.polygon(_spokes(centre, [radius * 1.2] * 4, tilt + math.pi / 4), fill=fill)
    elif shape == "triangle":
        draw.polygon(_spokes(centre, [radius * 1.2] * 3, tilt), fill=fill)
    elif shape == "star":
        draw.polygon(_spokes(centre, [radius * 1.2, radius * 0.45] * 5, tilt), fill=fill)
    else:
        arm = radius * 0.36
        for half_width, half_height in ((radius, arm), (arm, radius)):
            draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill)


def _spokes(centre: Point, radii: list[float], tilt: float) -> list[Point]:
    """Return corners at the given radii, evenly spaced around `centre`, starting at the top."""
    step = 2 * math.pi / len(radii)
    return [
        (centre[0] + r * math.sin(tilt + n * step), centre[1] - r * math.cos(tilt + n * step))
        for n, r in enumerate(radii)
    ]
