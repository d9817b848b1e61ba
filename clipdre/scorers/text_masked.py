"""Similarity without the text in the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from clipdre.core.columns import Column
from clipdre.core.density_ratio import similarity
from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers.base import Arrays, Encoder, Pool, Rows, setting

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES_AT_ONCE = 64
# Pixels around a text whose mean colour replaces it.
RING = 3
Box = tuple[int, int, int, int]  # left, top, right, bottom
Detect = Callable[["Image"], list[Box]]


class Method(StrEnum):
    """How text is kept from being read."""

    MIRROR = "mirror"
    OCR = "ocr"


class Masked(NamedTuple):
    """An image without text, or why there is none.

    Attributes
    ----------
    pixels : Tensor or None
        The model's input; None if the image has no text, so that it stays as it is.
    area : float
        Share of the image that text covers.
    failure : str
        Empty if the image could be used.
    """

    pixels: Tensor | None
    area: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class TextMasked:
    """Similarity of the caption to the image with its text made unreadable, encoded again.

    `mirror` turns the image left to right: letters can no longer be read, most else looks the same.
    `ocr` finds text with the package `rapidocr`, whose models are inside it (install both with
    ``pip install 'clipdre[text]'``), and fills it with the colour around it; images without text
    keep their similarity. Rank by the new value, or drop the pairs that lose most.

    It helps where CLIP reads a caption off the image instead of seeing what it names: covers,
    memes, banners. It misleads where the text is what the caption is about, and `mirror` where left
    and right matter, or where letters look alike mirrored. Every image is read and encoded again:
    `mirror` costs what encoding does, and `ocr` several tenths of a second more per image and core.
    """

    name: ClassVar = "text-masked"
    title: ClassVar = "Similarity without the text in the image"
    source: ClassVar = "T-MARS (arXiv 2307.03132); Parrot Captions (arXiv 2312.14232)"
    cost: ClassVar = "decodes and encodes all images again"
    version: ClassVar = 1
    example: ClassVar[Mapping[str, Any]] = {}

    method: Method = setting(
        "mirror: turn the image left to right; ocr: find and fill text.", default=Method.MIRROR
    )

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        meaning = "similarity to the image without its text"
        area = Column("text_area", "", "share of the image that text covers", "low")
        return (
            Column("similarity_text_masked", "cosine", meaning, "high"),
            *((area,) if self.method is Method.OCR else ()),
            Column("text_masked_failure", "", "why there is no value; empty if there is one"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Learn nothing; load the models, so that a missing one stops the run at once."""
        _ = pool.encoder
        if self.method is Method.OCR:
            _detector()
        return {}

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:  # noqa: ARG002
        """See `Scorer`."""
        captions = rows.vectors(Modality.TEXT)
        found = similarity(rows.vectors(Modality.IMAGE), captions)
        masked, areas, failures = rows.images(self._prepare(rows)), list[float](), list[str]()
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            part = [_or_failure(one) for one in islice(masked, IMAGES_AT_ONCE)]
            areas += [image.area for image in part]
            failures += [image.failure for image in part]
            new = {n: i.pixels for n, i in enumerate(part, start) if i.pixels is not None}
            if new:
                vectors = rows.encoder.encode_images(list(new.values())).cpu()
                found[list(new)] = similarity(vectors, captions[list(new)])
        is_missing = np.array([bool(failure) for failure in failures])
        columns = {
            "similarity_text_masked": np.where(is_missing, np.nan, found.numpy()),
            "text_area": np.where(is_missing, np.nan, areas),
            "text_masked_failure": np.array(failures),
        }
        return {column.name: columns[column.name] for column in self.columns()}

    def _prepare(self, rows: Rows) -> Callable[[Image], Masked]:
        prepare = _mirrored if self.method is Method.MIRROR else _without_text
        return partial(prepare, encoder=rows.encoder)


def _or_failure(found: Masked | str) -> Masked:
    return Masked(None, failure=found) if isinstance(found, str) else found


def _mirrored(image: Image, encoder: Encoder) -> Masked:
    from PIL.ImageOps import mirror  # noqa: PLC0415

    return Masked(encoder.preprocess(mirror(image)))


def _without_text(image: Image, encoder: Encoder) -> Masked:
    try:
        boxes = _detector()(image)
    except Exception as error:  # detectors raise nearly anything on odd shapes
        return Masked(None, failure=f"text detection: {type(error).__name__}")
    if not boxes:
        return Masked(None)
    without, area = filled(image, boxes)
    return Masked(encoder.preprocess(without), area)


def filled(image: Image, boxes: Sequence[Box]) -> tuple[Image, float]:
    """Fill boxes with the mean colour around each; return the share of the image they cover."""
    from PIL.Image import fromarray  # noqa: PLC0415

    pixels = np.array(image)
    covered = np.zeros(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    result = pixels.copy()
    for left, top, right, bottom in boxes:
        near = np.s_[max(0, top - RING) : bottom + RING, max(0, left - RING) : right + RING]
        around = pixels[near][~covered[near]]
        colour = (around if len(around) else pixels.reshape(-1, 3)).mean(axis=0)
        result[top:bottom, left:right] = np.round(colour)
    return fromarray(result), float(covered.mean())


@lru_cache(maxsize=1)
def _detector() -> Detect:
    try:
        import onnxruntime  # noqa: F401, PLC0415
        from rapidocr import RapidOCR  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "`method` ocr needs the packages rapidocr and onnxruntime",
            "run pip install 'clipdre[text]', or use mirror",
        ) from error
    ocr, one = RapidOCR(params={"Global.log_level": "critical"}), Lock()

    def detect(image: Image) -> list[Box]:
        # It reads arrays as cv2 makes them: blue, green, red.
        pixels = np.array(image)[:, :, ::-1]
        with one:  # it uses all processors itself
            found = ocr(pixels, use_det=True, use_cls=False, use_rec=False)
        if found.boxes is None:
            return []
        return [_box(np.asarray(corners), image.width, image.height) for corners in found.boxes]

    return detect


def _box(corners: npt.NDArray[Any], width: int, height: int) -> Box:
    """Return the box around four corners, inside the image."""
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    (left, top), (right, bottom) = (np.clip(at, 0, (width, height)) for at in (low, high))
    return int(left), int(top), int(right), int(bottom)
