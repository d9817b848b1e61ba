"""What clipdre needs of a contrastive model, and an open_clip model as that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize

from clipdre.core.density_ratio import unit
from clipdre.formats.folders.records import ModelRecord
from clipdre.models.text_tower import TextTower

# What is encoded at once: on a CPU as much as its caches like, on a device what it is given.
CPU_IMAGES = 32
CPU_TOKENS, DEVICE_TOKENS = 2048, 1 << 16


class Encoder(Protocol):
    """A contrastive model: images and captions to unit vectors, with its own scale and bias."""

    @property
    def record(self) -> ModelRecord:
        """What the model is, for the manifest."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels of the longer side of what the model sees."""
        ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """What `encode_images` takes of an RGB image, shape (3, height, width); in any thread."""
        ...

    def tokenize(self, caption: str) -> Tensor:
        """What `encode_texts` takes of a caption, int64 of shape (context,); in any thread."""
        ...

    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """`n` preprocessed images to unit vectors, float32 of shape (n, d), on its device."""
        ...

    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """`n` tokenized captions to unit vectors, float32 of shape (n, d), on its device."""
        ...


@dataclass(frozen=True)
class Scaling:
    """The end of an image transform: ``(x / 255 - mean) / std`` by channel."""

    mean: Tensor
    std: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 of shape (n, 3, height, width) to float32."""
        return (pixels.float() / 255 - self.mean) / self.std


def split_transform(transform: Any, device: torch.device) -> tuple[Any, Scaling | None]:
    """An image transform without its end, and that end on a device: one for a whole batch.

    Images wait and travel as bytes then, a quarter of what floats take. A transform that ends
    otherwise stays as it is.
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
    """An open_clip model on a device, in `dtype` and evaluation mode."""

    model: Any
    transform: Callable[[Image.Image], Tensor]
    scaling: Scaling | None
    text: TextTower
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    record: ModelRecord
    # Tokenizers of transformers change their own state at every call.
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)

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

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        most = CPU_IMAGES if self.device.type == "cpu" else len(pixels)
        parts = [pixels[start : start + most] for start in range(0, len(pixels), most)]
        return torch.cat([self._encoded(self._stacked(part)) for part in parts])

    def _encoded(self, pixels: Tensor) -> Tensor:
        moved = pixels.to(self.device, non_blocking=True)
        scaled = moved if self.scaling is None else self.scaling(moved)
        return unit(self.model.encode_image(scaled.to(self.dtype)).float())

    @torch.inference_mode()
    def encode_texts(self, tokens: Sequence[Tensor]) -> Tensor:
        """See `Encoder`."""
        most = CPU_TOKENS if self.device.type == "cpu" else DEVICE_TOKENS
        return unit(self.text(torch.stack(list(tokens)), self.device, most).float())

    def _stacked(self, rows: Sequence[Tensor]) -> Tensor:
        """One batch, in memory from which a GPU copies while the CPU goes on."""
        if self.device.type != "cuda":
            return torch.stack(list(rows))
        shape = (len(rows), *rows[0].shape)
        pinned = torch.empty(shape, dtype=rows[0].dtype, pin_memory=True)
        return torch.stack(list(rows), out=pinned)
