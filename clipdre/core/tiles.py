"""Partitions of queries over tiles of references, with the fastest kernel for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clipdre.core.partition import (
    NEGATIVE_INFINITY,
    LeftOut,
    QueryGroups,
    RunningPartition,
    leave_out,
)

TilePartition = Callable[[Tensor, Tensor, float, "LeftOut | None"], RunningPartition]


def logits_of(scaled: Tensor, references: Tensor, bias: float) -> Tensor:
    """Compute ``<a x, y> + b`` from rows already scaled by a: (n, d) and (m, d) to (n, m)."""
    logits = scaled @ references.T
    if bias:
        logits += bias
    return logits


def tile_partition(
    scaled: Tensor,
    references: Tensor,
    bias: float,
    left_out: LeftOut | None = None,
    split: int | None = None,
) -> RunningPartition:
    """Compute the partition of queries over one tile of references.

    Parameters
    ----------
    scaled : float Tensor of shape (n, d)
        Vectors times the scale.
    references : float Tensor of shape (m, d)
    bias : float
    left_out : two int64 Tensors, optional
        Rows and columns of what is left out, see `QueryGroups.left_out`.
    split : int, optional
        Compute two partitions, of shape (n, 2): one over the references before this one, and one
        over the others.
    """
    if split is not None:
        return _split_partition(scaled, references, bias, left_out, split)
    logits = logits_of(scaled, references, bias)
    absent = logits.new_zeros(len(logits)) if left_out is None else leave_out(logits, left_out)
    return RunningPartition.counting(logits, absent)


def _split_partition(
    scaled: Tensor, references: Tensor, bias: float, left_out: LeftOut | None, split: int
) -> RunningPartition:
    # One product and one pass over both parts: small tiles are many, so each call counts.
    parts = references[:split], references[split:]
    size = max(len(part) for part in parts)
    padded = references.new_zeros(2, size, references.shape[1])
    for place, part in zip(padded, parts, strict=True):
        place[: len(part)] = part
    logits = logits_of(scaled, padded.flatten(0, 1), bias).view(-1, 2, size)
    absent = torch.zeros(len(logits), 2, dtype=torch.float64, device=logits.device)
    if left_out is not None:
        rows, columns = left_out
        second = (columns >= split).long()
        logits[rows, second, columns - split * second] = NEGATIVE_INFINITY
        absent.index_put_((rows, second), absent.new_ones(()), accumulate=True)
    for n, part in enumerate(parts):
        logits[:, n, len(part) :] = NEGATIVE_INFINITY
        absent[:, n] += size - len(part)
    return RunningPartition.counting(logits, absent)


def accumulate(  # noqa: PLR0913 (the symbols of a formula)
    queries: Tensor,
    tiles: Iterable[tuple[Tensor, Tensor]],
    *,
    scale: float,
    bias: float = 0.0,
    groups: Tensor | None = None,
    query_rows: int = 1024,
    has_lengths: bool = False,
) -> RunningPartition:
    """Compute the partition of queries over references that arrive in tiles.

    Parameters
    ----------
    queries : float Tensor of shape (n, d)
    tiles : iterable of (references, groups)
        `references` of shape (m, d); `groups` of shape (m,).
    scale, bias : float
        Parameters of the logits ``scale * <x, y> + bias``.
    groups : int64 Tensor of shape (n,), optional
        Group of each query, whose references are left out; by default, none are.
    query_rows : int
        Queries per matrix product. Bounds the memory of a tile of logits; does not change results.
    has_lengths : bool
        Whether rows are of any length. The fused kernel rounds to fp16, which unit rows only are
        made for.
    """
    partition = tile_partition if has_lengths else _fastest(queries.device)
    blocks = torch.split(queries * scale, query_rows)
    own = [] if groups is None else [QueryGroups.of(g) for g in torch.split(groups, query_rows)]
    parts = [RunningPartition.empty(len(block), device=queries.device) for block in blocks]
    for references, others in tiles:
        for n, block in enumerate(blocks):
            left_out = own[n].left_out(others) if own else None
            parts[n] = parts[n].merge(partition(block, references, bias, left_out))
    return RunningPartition.cat(parts)


def _fastest(device: torch.device) -> TilePartition:
    """Return the fused kernel on GPUs that can run it, otherwise `tile_partition`."""
    if device.type != "cuda":
        return tile_partition
    try:
        from clipdre.core import fused  # noqa: PLC0415 (torch installs Triton only for GPUs)
    except ImportError:
        return tile_partition
    return fused.tile_partition
