"""Batches of images and captions that are encoded together, from one shard or several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clipdre.encoding.decode import Decoded
from clipdre.errors import ModelError
from clipdre.formats.folders.embeddings import Stored, stored_type
from clipdre.models.encoder import Encoder

# Captions that wait to be encoded together.
CAPTIONS = 4096


class Waiting(Protocol):
    """A shard whose samples wait for their vectors."""

    @property
    def waiting(self) -> int:
        """Number of samples that have no vectors yet."""
        ...

    def add_vectors(self, images: Stored, texts: Stored) -> None:
        """Add the vectors of the samples that waited longest."""
        ...


def _halved(size: int, error: Exception) -> int:
    """Halve a batch that did not fit into the device's memory; `ModelError` if it is one pair."""
    if size == 1:
        raise ModelError(
            "one pair alone does not fit into the device's memory",
            "choose a smaller model, `precision` bf16, or `device` cpu",
        ) from error
    torch.cuda.empty_cache()
    warnings.warn(
        f"a batch of {size} does not fit into the device's memory, continuing with {size // 2}: "
        f"pass `batch_size` {size // 2} to start there",
        stacklevel=2,
    )
    return size // 2


@dataclass
class InParts:
    """Encodes rows in parts that fit into the device's memory."""

    encode: Callable[[Sequence[Tensor]], Tensor]
    most: int
    dtype: torch.dtype = torch.float16

    def __call__(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Encode n rows to vectors of `dtype` in parts of shape (n', d), left on the device."""
        parts = []
        while rows:
            part = rows[: self.most]
            try:
                parts.append(self.encode(part).to(self.dtype))
            except torch.cuda.OutOfMemoryError as error:
                self.most = _halved(len(part), error)
                continue
            rows = rows[len(part) :]
        return parts


class Batch:
    """Samples of one or more shards that are encoded together.

    Captions wait for one another: the more there are, the better they group by length.
    """

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._size = batch_size
        inner_product = encoder.record.inner_product
        self._nothing = np.empty((0, encoder.record.embedding_dim), stored_type(inner_product))
        dtype = torch.float32 if inner_product else torch.float16
        self._encode_images = InParts(encoder.encode_images, batch_size, dtype)
        self._encode_texts = InParts(encoder.encode_texts, CAPTIONS, dtype)
        self._pixels: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._images: list[Tensor] = []
        # Captions of one image share its pixels: the image of each row, and the last one's pixels.
        self._image_of: list[int] = []
        self._last: Tensor | None = None

    def add(self, record: Decoded) -> bool:
        """Add a sample; return whether it was the last of a batch of images."""
        self._tokens.append(record.tokens)
        if record.pixels is self._last:
            self._image_of.append(self._image_of[-1])
            return False
        self._image_of.append(self._image_of[-1] + 1 if self._image_of else 0)
        self._last = record.pixels
        self._pixels.append(record.pixels)
        full = len(self._pixels) == self._size
        if full:
            self._read_images()
        return full

    def _read_images(self) -> None:
        self._images += self._encode_images(self._pixels)
        self._pixels = []

    @property
    def is_full(self) -> bool:
        """Whether as many captions wait as are encoded together."""
        return len(self._tokens) >= CAPTIONS

    def settle(self, shards: Iterable[Waiting]) -> None:
        """Encode what waits, and give the vectors to the shards, which hold its samples."""
        self._read_images()
        images = self._stacked(self._images)[self._image_of]
        texts = self._stacked(self._encode_texts(self._tokens))
        self._images, self._tokens, self._image_of, self._last = [], [], [], None
        for shard in shards:
            count = shard.waiting
            shard.add_vectors(images[:count], texts[:count])
            images, texts = images[count:], texts[count:]

    def _stacked(self, parts: list[Tensor]) -> Stored:
        return torch.cat(parts).cpu().numpy() if parts else self._nothing
