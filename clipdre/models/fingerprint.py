"""A fingerprint of a model as loaded: what it makes of a few fixed images and captions.

Weights alone do not decide vectors: activations, pooling, preprocessing and the tokenizer do too,
and they are defined in a configuration that may change under the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipdre.core.density_ratio import unit

# Short, long beyond any context, and with what tokenizers clean up in different ways.
CAPTIONS = (
    "a photo of a dog",
    "Two  DOGS &amp; a cat, on the stairs of an old house \u2014 caf\u00e9, 1984!",
    " ".join(f"word {n} of a very long caption" for n in range(24)),
    " ".join(f"{n}" for n in range(40)),
)
DIGITS = 6


def fingerprint(
    model: Any, transform: Any, tokenizer: Any, head: Callable[[Tensor], Tensor] = unit
) -> tuple[float, ...]:
    """Return the cosines between the vectors of fixed images and captions, pair by pair.

    All scores depend on such cosines. The model has to be on the CPU, in float32. If its `head`
    gives vectors of any length, the logs of their lengths follow.
    """
    with torch.inference_mode():
        pixels = torch.stack([transform(image) for image in probe_images()])
        features = [model.encode_image(pixels), model.encode_text(tokenizer(list(CAPTIONS)))]
        found = torch.cat([head(part.float()) for part in features])
        vectors = unit(found).nan_to_num()
        cosines = vectors @ vectors.T
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1)
    numbers = cosines[first, second]
    if head is not unit:
        lengths = torch.linalg.vector_norm(found, dim=1)
        numbers = torch.cat([numbers, lengths.log().nan_to_num()])
    return tuple(round(float(number), DIGITS) for number in numbers)


def probe_images() -> list[Image.Image]:
    """Return images that are wide, tall and small, with smooth and sharp contents."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:180, 0:320]
    wide = np.stack([x * 255 // 319, y * 255 // 179, (x * y) % 256], axis=2)
    tall = rng.integers(0, 256, (300, 170, 3))
    small = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((8, 8, 1), np.int64))
    return [Image.fromarray(array.astype(np.uint8)) for array in (wide, tall, small)]
