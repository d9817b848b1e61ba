"""Partitions of queries over tiles of references, with the fastest kernel for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clipdre.core.partition import Groups, RunningPartition, leave_out

TilePartition = Callable[[Tensor, Tensor, float, "Groups | None"], RunningPartition]


def logits_of(scaled: Tensor, references: Tensor, bias: float) -> Tensor:
    """Compute ``<a x, y> + b`` from rows already scaled by a: (n, d) and (m, d) to (n, m)."""
    logits = scaled @ references.T
    if bias:
        logits += bias
    return logits


def tile_partition(
    scaled: Tensor, references: Tensor, bias: float, groups: Groups | None
) -> RunningPartition:
    """Compute the partition of queries over one tile of references.

    Parameters
    ----------
    scaled : float Tensor of shape (n, d)
        Unit rows times the scale.
    references : float Tensor of shape (m, d), unit rows
    bias : float
    groups : int64 Tensors of shape (n,) and (m,), optional
        Group of each query and reference; references of a query's own group are left out.
    """
    logits = logits_of(scaled, references, bias)
    absent = logits.new_zeros(len(logits)) if groups is None else leave_out(logits, *groups)
    return RunningPartition.counting(logits, absent)


def accumulate(  # noqa: PLR0913 (the symbols of a formula)
    queries: Tensor,
    tiles: Iterable[tuple[Tensor, Tensor]],
    *,
    scale: float,
    bias: float = 0.0,
    groups: Tensor | None = None,
    query_rows: int = 1024,
) -> RunningPartition:
    """Compute the partition of queries over references that arrive in tiles.

    Parameters
    ----------
    queries : float Tensor of shape (n, d), unit rows
    tiles : iterable of (references, groups)
        `references` of shape (m, d), unit rows; `groups` of shape (m,).
    scale, bias : float
        Parameters of the logits ``scale * <x, y> + bias``.
    groups : int64 Tensor of shape (n,), optional
        Group of each query, whose references are left out; by default, none are.
    query_rows : int
        Queries per matrix product. Bounds the memory of a tile of logits; does not change results.
    """
    partition = _fastest(queries.device)
    blocks = torch.split(queries * scale, query_rows)
    own = (None,) * len(blocks) if groups is None else torch.split(groups, query_rows)
    parts = [RunningPartition.empty(len(block), device=queries.device) for block in blocks]
    for references, others in tiles:
        for n, (block, of_block) in enumerate(zip(blocks, own, strict=True)):
            pair = None if of_block is None else (of_block, others)
            parts[n] = parts[n].merge(partition(block, references, bias, pair))
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
