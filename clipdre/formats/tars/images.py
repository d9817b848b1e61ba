"""Decode untrusted images to upright RGB on white."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from clipdre.formats.tars.budget import Budget
from clipdre.formats.tars.limits import ImageError, check_limits
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
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNS[orientation] for orientation in range(5, 9)]
# Pixels that are converted together: conversions take many times the memory of their pixels.
STRIP = 1 << 20
# Pillow asks for memory in such blocks. glibc returns blocks above 32 MB to the system as soon as
# they are free, but keeps smaller ones for the thread that used them.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
# Bytes that this process decodes at the same time; a larger image is decoded alone.
DECODING = Budget(max(1 << 30, (os.cpu_count() or 1) << 26))
# Memory addresses in Pillow's messages are not reproducible.
ADDRESS = re.compile(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>")


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
    with decoded_image(
        data, max_pixels=max_pixels, max_aspect_ratio=max_aspect_ratio, smallest=smallest
    ) as found:
        return found


@contextmanager
def decoded_image(
    data: bytes, *, max_pixels: int, max_aspect_ratio: float, smallest: int | None = None
) -> Iterator[DecodedImage]:
    """Yield what `decode_image` returns; its memory counts as used until the context ends."""
    with _image_errors(data):
        image = _opened(data)
        nbytes = check_limits(image, data, max_pixels, max_aspect_ratio)
    with DECODING.held(nbytes):
        with _image_errors(data):
            found = _decoded(image, smallest)
        yield found


def check_image(data: bytes, *, max_pixels: int, max_aspect_ratio: float) -> None:
    """Check the header of an image without decoding it.

    Raises
    ------
    ImageError
        If the header alone shows that `decode_image` would raise it.
    """
    with _image_errors(data), _opened(data) as image:
        check_limits(image, data, max_pixels, max_aspect_ratio)


def _opened(data: bytes) -> ImageFile:
    return Image.open(io.BytesIO(data), formats=DECODERS)


def _decoded(image: ImageFile, smallest: int | None) -> DecodedImage:
    width, height = image.size
    if smallest is not None:
        image.draft(image.mode, (smallest, smallest))
    deep = image.format == "PNG" and ";16B" in str(image.tile)
    image.load()
    if deep and not image.mode.startswith("I"):
        _check_depth(image)
    turn = _turn(image)
    rgb = _to_rgb(image)
    if rgb is not image:
        image.close()  # so that its pixels are not in memory during a turn
    if turn is None:
        return DecodedImage(rgb, width, height)
    sideways = turn in SIDEWAYS
    return DecodedImage(rgb.transpose(turn), *((height, width) if sideways else (width, height)))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes the image upright."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the pixels are fine even if the EXIF block is broken
        return None


def _check_depth(image: Image.Image) -> None:
    """Refuse 16-bit colours that use the low bits only: Pillow keeps the high eight."""
    colours = [image.getchannel(name) for name in image.getbands() if name != "A"]
    if 0 < max(map(_brightest, colours)) < LOW_BITS:
        message = "its 16-bit colours use 12 bits or fewer, and only the upper 8 can be read"
        raise ImageError(Reason.UNREADABLE_IMAGE, message)


def _brightest(band: Image.Image) -> int:
    return cast("tuple[int, int]", band.getextrema())[1]


def _to_rgb(image: Image.Image) -> Image.Image:
    convert = _conversion(image)
    width, height = image.size
    rows = max(1, STRIP // width)
    if convert is None or rows >= height:
        return image if convert is None else convert(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """Return what converts any part of the image to RGB; None if nothing has to be done."""
    if image.mode.startswith("I"):
        return partial(_from_grey, brightest=_brightest(image))
    unused = (
        image.format == "BMP" and image.mode == "RGBA" and not _brightest(image.getchannel("A"))
    )
    if image.has_transparency_data and not unused:
        return _on_white
    return None if image.mode == "RGB" else partial(Image.Image.convert, mode="RGB")


def _from_grey(image: Image.Image, brightest: int) -> Image.Image:
    """Convert 16-bit grey: Pillow would clip at 255 instead of scaling."""
    values = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF)
    used = max(8, min(brightest, 0xFFFF).bit_length())  # 12 for many cameras and scanners
    return Image.fromarray((values >> (used - 8)).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
