"""Samples to the model's input, in any thread."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from torch import Tensor

from clipdre.config import Decode, ReadConfig
from clipdre.formats.tars.images import DecodedImage, decoded_image
from clipdre.formats.tars.limits import ImageError
from clipdre.formats.tars.samples import Failure, Reason, Sample, Stage
from clipdre.models.encoder import Encoder

# A JPEG is scaled down by its decoder to this multiple of the model's size or more: the pixels the
# model sees then differ by less than 1 % of full scale (root mean square) from exact decoding.
DETAIL = 2


@dataclass(frozen=True)
class Decoded:
    """A sample whose image is ready for the model."""

    sample: Sample
    width: int
    height: int
    pixels: Tensor
    tokens: Tensor


def decode(
    samples: Sequence[Sample], encoder: Encoder, config: ReadConfig
) -> list[Decoded | Failure]:
    """Decode, preprocess and tokenize samples that share an image; in any thread.

    Their pixels are one Tensor.
    """
    try:
        pixels, width, height = _pixels(samples[0], encoder, config)
    except ImageError as error:
        reason, message = error.reason, str(error)
        return [Failure(s.key, s.offset, Stage.DECODE, reason, message) for s in samples]
    return [_tokenized(sample, width, height, pixels, encoder) for sample in samples]


def _tokenized(
    sample: Sample, width: int, height: int, pixels: Tensor, encoder: Encoder
) -> Decoded | Failure:
    tokens = encoder.tokenize(sample.caption)
    if encoder.is_empty(tokens):
        message = "the model's tokenizer finds no text in the caption"
        return Failure(sample.key, sample.offset, Stage.DECODE, Reason.EMPTY_CAPTION, message)
    return Decoded(replace(sample, image=b""), width, height, pixels, tokens)


def _pixels(sample: Sample, encoder: Encoder, config: ReadConfig) -> tuple[Tensor, int, int]:
    """Return the model's input, and the width and height of the image; `ImageError` if bad."""
    with model_image(sample.image, encoder, config) as found:
        return encoder.preprocess(found.image), found.width, found.height


def model_image(
    data: bytes, encoder: Encoder, config: ReadConfig
) -> AbstractContextManager[DecodedImage]:
    """Decode an image in the detail that the model needs; see `decoded_image`."""
    return decoded_image(
        data,
        max_pixels=config.max_pixels,
        max_aspect_ratio=config.max_aspect_ratio,
        smallest=DETAIL * encoder.image_size if config.decode is Decode.FAST else None,
    )
