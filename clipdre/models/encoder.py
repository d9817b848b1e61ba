"""The interface of a contrastive model, and its implementation by open_clip models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from clipdre.core.density_ratio import unit
from clipdre.formats.folders.records import ModelRecord
from clipdre.models.text_tower import TextTower

# Most images and tokens per forward pass: on a CPU, sizes that suit its caches. Other devices take
# whole batches of images.
CPU_IMAGES = 32
CPU_TOKENS, DEVICE_TOKENS = 2048, 1 << 16


class Encoder(Protocol):
    """A contrastive model: encodes images and captions as vectors.

    They have length 1, unless logits are of inner products (`ModelRecord.inner_product`).
    """

    @property
    def record(self) -> ModelRecord:
        """Description of the model for the manifest, with its logit scale and bias."""
        ...

    @property
    def image_size(self) -> int:
        """Longer side of the model's input in pixels."""
        ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """Prepare an RGB image for `encode_images`: shape (3, height, width). Thread-safe."""
        ...

    def tokenize(self, caption: str) -> Tensor:
        """Prepare a caption for `encode_texts`: int64 of shape (context,). Thread-safe."""
        ...

    def is_empty(self, tokens: Tensor) -> bool:
        """Return whether a tokenized caption has only tokens that an empty one has too."""
        ...

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """Encode `n` preprocessed images as vectors on the device, float32 of shape (n, d)."""
        ...

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """Encode `n` tokenized captions as vectors on the device, float32 of shape (n, d)."""
        ...


@dataclass(frozen=True)
class Scaling:
    """The last steps of an image transform: ``(x / 255 - mean) / std`` by channel."""

    mean: Tensor
    std: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Scale uint8 pixels of shape (n, 3, height, width) to float32."""
        return (pixels.float() / 255 - self.mean) / self.std


def split_transform(transform: Any, device: torch.device) -> tuple[Any, Scaling | None]:
    """Split the conversion to floats off an image transform, to run it per batch on a device.

    Images are then queued and copied as bytes, which take a quarter of the memory of floats. A
    transform with other last steps is returned unchanged, with None.
    """
    if not isinstance(transform, Compose) or not isinstance(transform.transforms[-1], Normalize):
        return transform, None
    *geometry, to_tensor, normalize = transform.transforms
    if type(to_tensor).__name__ not in ("ToTensor", "MaybeToTensor"):
        return transform, None
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
        for values in (normalize.mean, normalize.std)
    )
    return Compose([*geometry, _as_bytes]), Scaling(mean, std)


def _as_bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class OpenClipEncoder:
    """An open_clip model on a device, in `dtype` and evaluation mode.

    Attributes
    ----------
    head : callable
        Turns the model's features, float32 of shape (n, f), into vectors, shape (n, d).
    """

    model: Any
    transform: Callable[[Image.Image], Tensor]
    scaling: Scaling | None
    text: TextTower
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    record: ModelRecord
    head: Callable[[Tensor], Tensor] = unit
    # Tokenizers of transformers modify their own state in every call.
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)

    def of_directions(self) -> OpenClipEncoder:
        """Return the same model with all vectors scaled to length 1, for what compares cosines."""
        if not self.record.inner_product:
            return self
        return replace(self, head=lambda features: unit(self.head(features)))

    @property
    def image_size(self) -> int:
        """See `Encoder`."""
        size = self.record.preprocessing["size"]
        return int(max(size)) if isinstance(size, list) else int(size)

    def preprocess(self, image: Image.Image) -> Tensor:
        """See `Encoder`."""
        return self.transform(image)

    def tokenize(self, caption: str) -> Tensor:
        """See `Encoder`."""
        with self._tokenizing:
            tokens: Tensor = self.tokenizer([caption])[0]
        return tokens

    def is_empty(self, tokens: Tensor) -> bool:
        """See `Encoder`."""
        return self._tokens_of_nothing.issuperset(tokens.tolist())

    @cached_property
    def _tokens_of_nothing(self) -> frozenset[int]:
        return frozenset(self.tokenize("").tolist())

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        size = CPU_IMAGES if self.device.type == "cpu" else len(pixels)
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return torch.cat([self._encoded(self._stacked(part)) for part in parts])

    def _encoded(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.device, non_blocking=True)
        scaled = moved if self.scaling is None else self.scaling(moved)
        return self.head(self.model.encode_image(scaled.to(self.dtype)).float())

    @torch.inference_mode()
    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        max_tokens = CPU_TOKENS if self.device.type == "cpu" else DEVICE_TOKENS
        return self.head(self.text(torch.stack(list(tokens)), self.device, max_tokens).float())

    def _stacked(self, rows: Sequence[Tensor]) -> Tensor:
        """Stack rows into one batch, pinned for a GPU so that it can be copied asynchronously."""
        if self.device.type != "cuda":
            return torch.stack(list(rows))
        shape = (len(rows), *rows[0].shape)
        pinned = torch.empty(shape, dtype=rows[0].dtype, pin_memory=True)
        return torch.stack(list(rows), out=pinned)
