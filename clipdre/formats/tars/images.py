"""Decodes an image of a web-scale shard to upright RGB on white."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from clipdre.formats.tars.samples import Reason

# Pillow guesses the format from the content; only these decoders may ever see it.
DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
ORIENTATION = 0x0112
QUARTER_TURNS = range(5, 9)
# Of the buffer, in messages: it would differ from run to run.
ADDRESS = re.compile(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>")


class ImageError(Exception):
    """An image that cannot be used, with its reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a decoder makes of hostile bytes as an `ImageError` with its reason."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except Exception as error:  # decoders of hostile bytes raise nearly anything
        message = ADDRESS.sub("", f"{type(error).__name__}: {error}")
        raise ImageError(Reason.UNREADABLE_IMAGE, message) from error


class DecodedImage(NamedTuple):
    """An image in RGB, and the width and height that it has in its file, upright."""

    image: Image.Image
    width: int
    height: int


def decode_image(
    data: bytes, *, max_pixels: int, max_aspect_ratio: float, smallest: int | None = None
) -> DecodedImage:
    """First frame of an encoded image: upright (EXIF), RGB, transparency composited on white.

    Parameters
    ----------
    smallest : int, optional
        A JPEG may be decoded to half, a quarter or an eighth of its size, as long as no side gets
        smaller than this: a decoder drops frequencies in half the time and less.

    Raises
    ------
    ImageError
        With the reason, whatever the decoder makes of the bytes.
    """
    with _told():
        image = Image.open(io.BytesIO(data), formats=DECODERS)
        width, height = image.size
        _check_size(width, height, max_pixels, max_aspect_ratio)
        if smallest is not None:
            image.draft(image.mode, (smallest, smallest))
        image.load()
        upright, lay = _upright(image)
        return DecodedImage(_to_rgb(upright), *((height, width) if lay else (width, height)))


def check_image(data: bytes, *, max_pixels: int, max_aspect_ratio: float) -> None:
    """`ImageError` where the header of an image tells that `decode_image` will raise it."""
    with _told(), Image.open(io.BytesIO(data), formats=DECODERS) as image:
        _check_size(image.width, image.height, max_pixels, max_aspect_ratio)


def _check_size(width: int, height: int, max_pixels: int, max_aspect_ratio: float) -> None:
    if width * height > max_pixels:
        message = f"{width} x {height} pixels; at most {max_pixels} are decoded"
        raise ImageError(Reason.IMAGE_TOO_LARGE, message)
    if max(width, height) > max_aspect_ratio * min(width, height):
        # Scaling the shorter side to the model's size would make the longer one enormous.
        message = f"{width} x {height} pixels; sides may differ {max_aspect_ratio:g}-fold at most"
        raise ImageError(Reason.EXTREME_ASPECT_RATIO, message)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as it is meant to be seen, and whether it lay on its side."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation == 1:
            return image, False
        return ImageOps.exif_transpose(image), orientation in QUARTER_TURNS
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image, False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip at 255, not scale
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
