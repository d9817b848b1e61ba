"""Decode untrusted images to upright RGB on white."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipdre.formats.tars.samples import Reason

# Pillow guesses the format from the content. No other decoder may see untrusted bytes.
DECODERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
# What else is found in pools, by its first bytes.
FOREIGN = {
    "a JPEG 2000 image": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "a JPEG XL image": rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a",
    "a TIFF image": rb"II[*+]\0|MM\0[*+]",
    "a HEIC image": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "an HTML page": rb"(?=\s*<).*?<(!doctype html|html|head|body)\b",
    "an SVG image": rb"(?=\s*<).*?<svg\b",
}
FIRST_BYTES = 1024
# Brightest value of 12-bit colours among the upper 8 of 16 bits, plus one.
LOW_BITS = 16
ORIENTATION = 0x0112
QUARTER_TURNS = range(5, 9)
# Memory addresses in Pillow's messages are not reproducible.
ADDRESS = re.compile(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>")


class ImageError(Exception):
    """An image that cannot be used, and the reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextmanager
def _image_errors(data: bytes) -> Iterator[None]:
    """Turn the errors that a decoder raises into an `ImageError` with a reason."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(Reason.UNREADABLE_IMAGE, _unidentified(data)) from error
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        message = ADDRESS.sub("", f"{type(error).__name__}: {error}")
        raise ImageError(Reason.UNREADABLE_IMAGE, message) from error


def _unidentified(data: bytes) -> str:
    """Return the message about an image in none of the known formats."""
    start = data[:FIRST_BYTES]
    for name, pattern in FOREIGN.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"cannot identify image file: it is {name}"
    return "cannot identify image file"


class DecodedImage(NamedTuple):
    """An RGB image, and the upright width and height that it has in its file."""

    image: Image.Image
    width: int
    height: int


def decode_image(
    data: bytes, *, max_pixels: int, max_aspect_ratio: float, smallest: int | None = None
) -> DecodedImage:
    """Decode the first frame of an image: upright (EXIF), RGB, with transparency on white.

    The alpha channel of a BMP that is zero everywhere is not used, and ignored. 16-bit grey is
    scaled by as many of its bits as the brightest pixel uses.

    Parameters
    ----------
    smallest : int, optional
        Let the decoder scale a JPEG to a half, quarter or eighth of its size while no side becomes
        shorter than this, which halves the decoding time or better.

    Raises
    ------
    ImageError
        If the image cannot be used; `reason` is the reason.
    """
    with _image_errors(data):
        image = Image.open(io.BytesIO(data), formats=DECODERS)
        width, height = image.size
        _check_size(width, height, max_pixels, max_aspect_ratio)
        if smallest is not None:
            image.draft(image.mode, (smallest, smallest))
        deep = image.format == "PNG" and ";16B" in str(image.tile)
        image.load()
        if deep and not image.mode.startswith("I"):
            _check_depth(image)
        upright, turned = _upright(_with_used_alpha(image))
        return DecodedImage(_to_rgb(upright), *((height, width) if turned else (width, height)))


def check_image(data: bytes, *, max_pixels: int, max_aspect_ratio: float) -> None:
    """Check the header of an image without decoding it.

    Raises
    ------
    ImageError
        If the header alone shows that `decode_image` would raise it.
    """
    with _image_errors(data), Image.open(io.BytesIO(data), formats=DECODERS) as image:
        _check_size(image.width, image.height, max_pixels, max_aspect_ratio)


def _check_size(width: int, height: int, max_pixels: int, max_aspect_ratio: float) -> None:
    if width * height > max_pixels:
        message = f"{width} x {height} pixels, above the limit of {max_pixels}"
        raise ImageError(Reason.IMAGE_TOO_LARGE, message)
    if max(width, height) > max_aspect_ratio * min(width, height):
        # Scaling the shorter side to the model's size would make the longer one enormous.
        message = f"{width} x {height} pixels, above the aspect ratio of {max_aspect_ratio:g}"
        raise ImageError(Reason.EXTREME_ASPECT_RATIO, message)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image as it is meant to be seen, and whether it lay on its side."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation == 1:
            return image, False
        return ImageOps.exif_transpose(image), orientation in QUARTER_TURNS
    except Exception:  # the pixels are fine even if the EXIF block is broken
        return image, False


def _check_depth(image: Image.Image) -> None:
    """Refuse 16-bit colours that use the low bits only: Pillow keeps the high eight."""
    if 0 < max(_brightest(image, name) for name in image.getbands() if name != "A") < LOW_BITS:
        message = "its 16-bit colours use 12 bits or fewer, and only the upper 8 can be read"
        raise ImageError(Reason.UNREADABLE_IMAGE, message)


def _brightest(image: Image.Image, band: str) -> int:
    return int(np.asarray(image.getchannel(band)).max())


def _with_used_alpha(image: Image.Image) -> Image.Image:
    """Return the image without its alpha channel if that is a BMP's that nobody filled."""
    if image.format == "BMP" and image.mode == "RGBA" and not _brightest(image, "A"):
        return image.convert("RGB")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip at 255 instead of scaling
        values = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)
        used = max(8, int(values.max()).bit_length())  # 12 for many cameras and scanners
        return Image.fromarray((values >> (used - 8)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
