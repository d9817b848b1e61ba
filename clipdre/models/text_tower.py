"""A text tower that reads captions only as far as their vectors depend on them.

The output of a causal tower at the end token does not depend on later tokens. Captions cut after
their end tokens therefore have the same vectors, for a fraction of the work at full context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

# Largest error of a cut caption's vector, relative to its length; float32 reaches 1e-6.
CLOSE = 1e-4


class TextTower:
    """A text tower that encodes each distinct caption once, in batches of similar length.

    Parameters
    ----------
    model
        An open_clip model.
    tokens : int64 Tensor of shape (n, context)
        Captions that test whether cutting leaves vectors unchanged.
    """

    def __init__(self, model: Any, tokens: Tensor) -> None:
        self._whole = _Forward(model)
        self._ends = _ends(model)
        with torch.inference_mode():
            if self._ends is not None and not self._ignores_later_tokens(tokens):
                self._ends = None

    def __call__(self, tokens: Tensor, device: torch.device, max_tokens: int) -> Tensor:
        """Encode captions, shape (n, context) to (n, d), at most `max_tokens` tokens per batch."""
        distinct, inverse = torch.unique(tokens, dim=0, return_inverse=True)
        needed = self._needed(distinct)
        order = torch.argsort(needed, descending=True, stable=True)
        vectors: Tensor = torch.cat(
            [
                self._cut(distinct[rows, : int(needed[rows[0]])].to(device, non_blocking=True))
                for rows in _batches(order, needed, max_tokens)
            ]
        )
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return vectors[place[inverse].to(device, non_blocking=True)]

    def _needed(self, tokens: Tensor) -> Tensor:
        """Return the number of tokens of each caption that its vector depends on, int64 (n,)."""
        if self._ends is None:
            return torch.full((len(tokens),), tokens.shape[1])
        return self._ends(tokens) + 1

    def _cut(self, tokens: Tensor) -> Tensor:
        """Encode captions that are at most as long as the context."""
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

    def _ignores_later_tokens(self, tokens: Tensor) -> bool:
        """Whether captions cut after their end tokens have the vectors of full context."""
        longest = int(self._needed(tokens).max())
        try:
            cut, whole = self._cut(tokens[:, :longest]), self._whole(tokens)
        except (RuntimeError, TypeError, AttributeError):  # the tower accepts full context only
            return False
        error = torch.linalg.vector_norm(cut - whole, dim=1)
        return bool((error <= CLOSE * torch.linalg.vector_norm(whole, dim=1)).all())


class _Forward(nn.Module):
    """A module whose forward is `encode_text`, for `functional_call`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.model.encode_text(tokens)
        return vectors


def _tower(model: Any) -> Any:
    """Return the module with the text's position embeddings and mask; None if it is unknown."""
    if isinstance(model, open_clip.CLIP):
        return model
    text = getattr(model, "text", None)
    return text if isinstance(text, TextTransformer) else None


def _ends(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Return a function that finds end tokens; None if vectors depend on later tokens."""
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


def _batches(order: Tensor, needed: Tensor, max_tokens: int) -> Iterator[Tensor]:
    """Split `order`, longest first, into batches of at most `max_tokens` tokens with padding."""
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // int(needed[order[start]]))
        yield order[start : start + rows]
        start += rows
