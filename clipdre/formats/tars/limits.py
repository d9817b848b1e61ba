"""What decoding an image costs, by its header alone, and how much it may cost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeGuard

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from clipdre.formats.tars.samples import Reason

# Bytes that decoding may take for each pixel of `max_pixels`: what a progressive CMYK takes. Only
# WebP and AVIF take more, so their largest image has fewer pixels.
BYTES_PER_PIXEL = 12
# What Pillow keeps per pixel, if it is not 4 bytes; what it or a decoder needs beside that.
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2}
RESULT = 4
WORK = {"WEBP": 12, "AVIF": 14}
# A JPEG of several scans is held as coefficients of two bytes until the last one.
COEFFICIENT = 2
# Each scan visits all pixels, even if it is empty. Encoders write 10 or so. An image of
# `max_pixels` may have this many, a smaller one more.
MAX_SCANS = 16
MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"


class ImageError(Exception):
    """An image that cannot be used, and the reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_limits(image: ImageFile, data: bytes, max_pixels: int, max_aspect_ratio: float) -> int:
    """Check an image that is opened but not decoded; return the bytes that decoding takes.

    Parameters
    ----------
    data : bytes
        The encoded image.

    Raises
    ------
    ImageError
        If the image is too large or too long, or has too many scans.
    """
    pixels = image.width * image.height
    size = f"{image.width} x {image.height} pixels"
    if pixels > max_pixels:
        raise ImageError(Reason.IMAGE_TOO_LARGE, f"{size}, above the limit of {max_pixels}")
    if max(image.size) > max_aspect_ratio * min(image.size):
        # Scaling the shorter side to the model's size would make the longer one enormous.
        message = f"{size}, above the aspect ratio of {max_aspect_ratio:g}"
        raise ImageError(Reason.EXTREME_ASPECT_RATIO, message)
    scans = _scans(image, data, MAX_SCANS * max_pixels // max(1, pixels)) if _is_jpeg(image) else 1
    if scans * pixels > MAX_SCANS * max_pixels:
        message = f"{scans} scans of {size}, above the limit of {MAX_SCANS} scans of {max_pixels}"
        raise ImageError(Reason.IMAGE_TOO_LARGE, message)
    depth = _depth(image, scans)
    if depth * pixels > BYTES_PER_PIXEL * max_pixels:
        message = (
            f"{size}, of which each takes {depth} bytes while it is decoded, above the limit of "
            f"{BYTES_PER_PIXEL} for {max_pixels} pixels"
        )
        raise ImageError(Reason.IMAGE_TOO_LARGE, message)
    return depth * pixels


def _is_jpeg(image: ImageFile) -> TypeGuard[JpegImageFile]:
    return isinstance(image, JpegImageFile)


def _scans(image: JpegImageFile, data: bytes, most: int) -> int:
    """Return the number of scans; those of thumbnails may count too, up to `most`."""
    first = next((at for kind, at in _segments(data) if kind == START_OF_SCAN), len(data))
    if "progressive" not in image.info and data[first + 2 : first + 3] == bytes([image.layers]):
        return 1  # it has all components, and the decoder reads nothing behind it
    scans = data.count(b"\xff" + START_OF_SCAN)
    if scans > most:
        scans = sum(kind == START_OF_SCAN for kind, _ in _segments(data))
    return scans


def _segments(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each segment up to the end of a JPEG, and where its length is."""
    at = 0
    while (marker := MARKER.search(data, at)) and marker[1] != END_OF_IMAGE:
        yield marker[1], marker.end()
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


def _depth(image: ImageFile, scans: int) -> int:
    """Return the bytes per pixel that are in memory at the same time."""
    coefficients = COEFFICIENT * image.layers if _is_jpeg(image) and scans > 1 else 0
    work = max(RESULT, coefficients, WORK.get(image.format or "", 0))
    return STORED.get(image.mode, 4) + work
