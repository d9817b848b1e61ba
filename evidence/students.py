"""Small image-text models, trained from scratch on the rows of a pool."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from clipdre.training import ClipLoss

IMAGE_SIZE = 32
WORDS = 16  # of a caption that are read
NEAR = 3  # words apart, of pairs of words
VOCABULARY = 8000
MAX_LOGIT_SCALE = 100.0
UNKNOWN = 0
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """How a student is trained, the same for every subset.

    Attributes
    ----------
    steps, batch : int
        Number of steps, and pairs in each.
    learning_rate : float
        Largest; it rises for a tenth of the steps, and falls to 0.
    width : int
        Of terms and of both outputs.
    """

    steps: int = 250
    batch: int = 96
    learning_rate: float = 2e-3
    width: int = 64


class Vocabulary:
    """Words, and pairs of words near each other in their order: the most frequent of some captions.

    The pairs stand for grammar: "left red circle, right blue star" is not "left blue star, ...".
    """

    def __init__(self, captions: Iterable[str]) -> None:
        counts = Counter(term for caption in captions for term in terms(caption))
        self.index = {term: n for n, (term, _) in enumerate(counts.most_common(VOCABULARY), 1)}

    def __len__(self) -> int:
        return len(self.index) + 1

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return the terms of captions, int64 of shape (n, terms); 0 is none that is known."""
        found = [
            [n for term in terms(caption) if (n := self.index.get(term))] for caption in captions
        ]
        tokens = torch.full((len(captions), max(map(len, found), default=0)), UNKNOWN)
        for row, known in enumerate(found):
            tokens[row, : len(known)] = torch.tensor(known, dtype=torch.int64)
        return tokens


def terms(caption: str) -> list[str]:
    """Return the first words of a caption, and the pairs of them that are near."""
    words = re.findall(r"\w+", caption.lower())[:WORDS]
    near = [f"{a} {b}" for n, a in enumerate(words) for b in words[n + 1 : n + 1 + NEAR]]
    return words + near


class Student(nn.Module):
    """A convolutional network and a bag of terms, with one space and one temperature."""

    def __init__(self, terms: int, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.width
        layers: list[nn.Module] = []
        for before, after, kernel in ((3, 16, 4), (16, 32, 3), (32, 64, 3)):
            convolution = nn.Conv2d(before, after, kernel, 2, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        side = IMAGE_SIZE // 8
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * side * side, width))
        self.terms = nn.EmbeddingBag(terms, width, mode="sum", padding_idx=UNKNOWN)
        self.text = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.image.to(memory_format=torch.channels_last)

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode uint8 images of shape (n, 3, size, size) as unit vectors."""
        pixels = images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.image(pixels), dim=-1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Encode numbers of terms, of shape (n, terms), as unit vectors."""
        return functional.normalize(self.text(self.terms(tokens)), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Factor of the cosines."""
        return self.log_scale.exp()


@dataclass(frozen=True)
class Pairs:
    """What students see of a pool.

    Attributes
    ----------
    images : uint8 array of shape (n, 3, size, size)
    captions : list of n str
    """

    images: npt.NDArray[np.uint8]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


class Trainer:
    """Trains students on rows of a pool, which is tokenized once."""

    def __init__(self, pool: Pairs, recipe: Recipe) -> None:
        self.recipe = recipe
        self.vocabulary = Vocabulary(pool.captions)
        self.images = torch.from_numpy(pool.images)
        self.tokens = self.vocabulary(pool.captions)

    def train(
        self, rows: Rows, seed: int, weights: npt.NDArray[np.float32] | None = None, **loss: Any
    ) -> Student:
        """Train from scratch on random batches of `rows`.

        Parameters
        ----------
        rows : int64 array
            Rows of the pool, each as likely as any other.
        seed : int
            Of the first weights and of the batches.
        weights : float32 array, as long as `rows`, or None
            Weight of each pair in the loss.
        **loss
            Settings of `clipdre.training.ClipLoss`.
        """
        torch.manual_seed(seed)
        student = Student(len(self.vocabulary), self.recipe).train()
        optimizer = torch.optim.AdamW(
            student.parameters(),
            self.recipe.learning_rate,
            (0.9, 0.98),
            weight_decay=0.05,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.recipe.learning_rate, total_steps=self.recipe.steps, pct_start=0.1
        )
        loss_of = ClipLoss(**loss)
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        weight = None if weights is None else torch.from_numpy(weights)
        for _ in range(self.recipe.steps):
            drawn = torch.randint(len(chosen), (self.recipe.batch,))
            batch = chosen[drawn]
            value = loss_of(
                student.encode_images(self.images[batch]),
                student.encode_texts(self.tokens[batch]),
                student.scale,
                weights=None if weight is None else weight[drawn],
            )
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                student.log_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        return student.eval()


@torch.inference_mode()
def encode(student: Student, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors of images and texts, float32 of shape (n, width) each."""
    return (
        torch.cat([student.encode_images(part) for part in torch.split(images, 1000)]),
        torch.cat([student.encode_texts(part) for part in torch.split(tokens, 1000)]),
    )
