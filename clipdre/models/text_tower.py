"""A model's text side that reads no more of a caption than decides its vector.

A causal tower that is read at the end token is blind to what follows it: captions cut behind their
end tokens have the same vectors, for a fraction of the work at full context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

# Relative to a vector's length; float32 gives 1e-6.
CLOSE = 1e-4


class TextTower:
    """Encodes tokens, each distinct caption once, short captions together with short ones."""

    def __init__(self, model: Any, tokens: Tensor) -> None:
        """Of an open_clip model, tried on some `tokens` of shape (n, context)."""
        self._whole = _Forward(model)
        self._ends = _ends(model)
        with torch.inference_mode():
            if self._ends is not None and not self._is_blind_behind_the_end(tokens):
                self._ends = None

    def __call__(self, tokens: Tensor, device: torch.device, most: int) -> Tensor:
        """Vectors of captions, shape (n, context) to (n, d), `most` tokens at once."""
        distinct, inverse = torch.unique(tokens, dim=0, return_inverse=True)
        needed = self._needed(distinct)
        order = torch.argsort(needed, descending=True, stable=True)
        vectors: Tensor = torch.cat(
            [
                self._cut(distinct[rows, : int(needed[rows[0]])].to(device, non_blocking=True))
                for rows in _parts(order, needed, most)
            ]
        )
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return vectors[place[inverse].to(device, non_blocking=True)]

    def _needed(self, tokens: Tensor) -> Tensor:
        """How many tokens of each caption its vector needs, int64 of shape (n,)."""
        if self._ends is None:
            return torch.full((len(tokens),), tokens.shape[1])
        return self._ends(tokens) + 1

    def _cut(self, tokens: Tensor) -> Tensor:
        """Vectors of captions that are shorter than the context or as long."""
        if self._ends is None:
            whole: Tensor = self._whole(tokens)
            return whole
        length = tokens.shape[1]
        tower = _tower(self._whole.model)
        name = "model." if tower is self._whole.model else "model.text."
        short = {
            f"{name}positional_embedding": tower.positional_embedding[:length],
            f"{name}attn_mask": tower.attn_mask[:length, :length],
        }
        vectors: Tensor = torch.func.functional_call(self._whole, short, (tokens,))
        return vectors

    def _is_blind_behind_the_end(self, tokens: Tensor) -> bool:
        longest = int(self._needed(tokens).max())
        try:
            cut, whole = self._cut(tokens[:, :longest]), self._whole(tokens)
        except (RuntimeError, TypeError, AttributeError):  # a tower that takes full context only
            return False
        apart = torch.linalg.vector_norm(cut - whole, dim=1)
        return bool((apart <= CLOSE * torch.linalg.vector_norm(whole, dim=1)).all())


class _Forward(nn.Module):
    """`encode_text` as a module's forward, as `functional_call` needs it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.model.encode_text(tokens)
        return vectors


def _tower(model: Any) -> Any:
    """The module with the text's position embeddings and mask; None where it is none of ours."""
    if isinstance(model, open_clip.CLIP):
        return model
    text = getattr(model, "text", None)
    return text if isinstance(text, TextTransformer) else None


def _ends(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Gives the place of each caption's end token; None where the rest of the context counts."""
    tower = _tower(model)
    if tower is None or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        return None
    if tower is model:
        pool, end = model.text_pool_type, model.text_eos_id
    else:
        pool, end = tower.pool_type, tower.eos_id
    if pool == "argmax":
        return lambda tokens: tokens.argmax(dim=1)
    if pool == "eos":
        return lambda tokens: (tokens == end).int().argmax(dim=1)
    return None


def _parts(order: Tensor, needed: Tensor, most: int) -> Iterator[Tensor]:
    """`order`, longest first, in parts of at most `most` tokens, padding included."""
    start = 0
    while start < len(order):
        rows = max(1, most // int(needed[order[start]]))
        yield order[start : start + rows]
        start += rows
