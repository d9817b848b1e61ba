"""Partitions of queries over tiles of references, with the fastest kernel for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition, leave_out_own

TilePartition = Callable[[Tensor, Tensor, float, "Tensor | None"], RunningPartition]


def logits_of(scaled: Tensor, references: Tensor, bias: float) -> Tensor:
    """Compute ``<a x, y> + b`` from rows already scaled by a: (n, d) and (m, d) to (n, m)."""
    logits = scaled @ references.T
    if bias:
        logits += bias
    return logits


def tile_partition(
    scaled: Tensor, references: Tensor, bias: float, own: Tensor | None
) -> RunningPartition:
    """Compute the partition of queries over one tile of references.

    Parameters
    ----------
    scaled : float Tensor of shape (n, d)
        Unit rows times the scale.
    references : float Tensor of shape (m, d), unit rows
    bias : float
    own : int64 Tensor of shape (n,), optional
        Index of each query's own counterpart in the tile; any number outside [0, m) if it is not
        in the tile.
    """
    logits = logits_of(scaled, references, bias)
    absent = logits.new_zeros(len(logits)) if own is None else leave_out_own(logits, own)
    return RunningPartition.counting(logits, absent)


def accumulate(  # noqa: PLR0913 (the symbols of a formula)
    queries: Tensor,
    tiles: Iterable[tuple[int, Tensor]],
    *,
    scale: float,
    bias: float = 0.0,
    own: Tensor | None = None,
    query_rows: int = 1024,
) -> RunningPartition:
    """Compute the partition of queries over references that arrive in tiles.

    Parameters
    ----------
    queries : float Tensor of shape (n, d), unit rows
    tiles : iterable of (start, references)
        `references` of shape (m, d), unit rows; `start` is the index of its first row.
    scale, bias : float
        Parameters of the logits ``scale * <x, y> + bias``.
    own : int64 Tensor of shape (n,), optional
        Index of each query's own counterpart among all references; -1 if it is not among them.
    query_rows : int
        Queries per matrix product. Bounds the memory of a tile of logits; does not change results.
    """
    partition = _fastest(queries.device)
    blocks = torch.split(queries * scale, query_rows)
    owns = (None,) * len(blocks) if own is None else torch.split(own, query_rows)
    parts = [RunningPartition.empty(len(block), device=queries.device) for block in blocks]
    for start, references in tiles:
        for n, (block, block_own) in enumerate(zip(blocks, owns, strict=True)):
            column = None if block_own is None else block_own - start
            parts[n] = parts[n].merge(partition(block, references, bias, column))
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
