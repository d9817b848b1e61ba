"""A Triton kernel for the partition of a tile that never writes its logits to memory.

Each program owns a block of queries and walks over a range of references. Logits stay in registers,
relative to a running maximum, as the exponentials of flash attention do (Dao et al., 2022).
Products are of fp16 numbers summed in fp32: for unit vectors and a scale of 100 this loses 0.001
nats. bf16 is no faster and loses eight times as much.
"""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clipdre.core.partition import LeftOut, RunningPartition

QUERIES, REFERENCES, DEPTH = 128, 128, 64
# Reference blocks per program: few enough to leave work for every processor.
WALK = 32


@triton.jit
def _kernel(
    queries,
    references,
    query_groups,
    reference_groups,
    tops,
    exps,
    s_exps,
    exp_sqs,
    n,
    m,
    d,
    bias,
    block_n: tl.constexpr,
    block_m: tl.constexpr,
    block_d: tl.constexpr,
    walk: tl.constexpr,
):
    rows = tl.program_id(0) * block_n + tl.arange(0, block_n)
    is_row = rows < n
    own_group = tl.load(query_groups + rows, mask=is_row, other=-1)
    top = tl.full((block_n,), float("-inf"), tl.float32)
    exp = tl.zeros((block_n,), tl.float32)
    s_exp = tl.zeros((block_n,), tl.float32)
    exp_sq = tl.zeros((block_n,), tl.float32)
    row_starts = rows.to(tl.int64) * d
    for step in range(walk):
        columns = (tl.program_id(1) * walk + step) * block_m + tl.arange(0, block_m)
        is_column = columns < m
        column_starts = columns.to(tl.int64) * d
        products = tl.zeros((block_n, block_m), tl.float32)
        for start in range(0, d, block_d):
            depth = start + tl.arange(0, block_d)
            is_depth = depth < d
            x = tl.load(
                queries + row_starts[:, None] + depth[None, :],
                mask=is_row[:, None] & is_depth[None, :],
                other=0.0,
            )
            y = tl.load(
                references + column_starts[None, :] + depth[:, None],
                mask=is_column[None, :] & is_depth[:, None],
                other=0.0,
            )
            products = tl.dot(x, y, products)
        group = tl.load(reference_groups + columns, mask=is_column, other=-1)
        counted = is_column[None, :] & (group[None, :] != own_group[:, None])
        logits = tl.where(counted, products + bias, float("-inf"))
        new = tl.maximum(top, tl.max(logits, 1))
        # A query whose references were all left out so far has no maximum.
        level = tl.where(new == float("-inf"), 0.0, new)
        drop = tl.where(top == float("-inf"), 0.0, top - level)
        decay = tl.exp(drop)
        shifted = tl.where(counted, logits - level[:, None], 0.0)
        weights = tl.where(counted, tl.exp(shifted), 0.0)
        s_exp = (s_exp + drop * exp) * decay + tl.sum(weights * shifted, 1)
        exp = exp * decay + tl.sum(weights, 1)
        exp_sq = exp_sq * decay * decay + tl.sum(weights * weights, 1)
        top = new
    place = rows * tl.num_programs(1) + tl.program_id(1)
    tl.store(tops + place, top, mask=is_row)
    tl.store(exps + place, exp, mask=is_row)
    tl.store(s_exps + place, s_exp, mask=is_row)
    tl.store(exp_sqs + place, exp_sq, mask=is_row)


def tile_partition(
    scaled: Tensor,
    references: Tensor,
    bias: float,
    left_out: LeftOut | None = None,
) -> RunningPartition:
    """Compute the partition of a tile: see `tiles.tile_partition`, the oracle in the tests."""
    n, m = len(scaled), len(references)
    walks = triton.cdiv(m, REFERENCES * WALK)
    parts = [torch.empty(n, walks, device=scaled.device) for _ in range(4)]
    of_queries, of_references = _groups(n, m, left_out, scaled.device)
    _kernel[(triton.cdiv(n, QUERIES), walks)](
        scaled.half(),
        references.half(),
        of_queries,
        of_references,
        *parts,
        n,
        m,
        scaled.shape[1],
        bias,
        block_n=QUERIES,
        block_m=REFERENCES,
        block_d=DEPTH,
        walk=WALK,
        num_warps=8,
        num_stages=3,
    )
    top, *sums = (part.double() for part in parts)
    whole = RunningPartition(top, torch.zeros_like(top), *sums).over_folds()
    absent = torch.zeros(n, dtype=torch.float64, device=scaled.device)
    if left_out is not None:
        absent = torch.bincount(left_out[0], minlength=n).double()
    whole.weight = m - absent
    return whole


def _groups(
    n: int, m: int, left_out: LeftOut | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Number queries and references so that a query leaves out those with its own number.

    Queries that leave out a common reference leave out the same ones; their number is the first of
    them.
    """
    of_queries = torch.full((n,), -1, device=device)
    of_references = torch.full((m,), n, device=device)
    if left_out is not None:
        rows, columns = left_out
        of_references.scatter_reduce_(0, columns, rows, "amin")
        of_queries[rows] = of_references[columns]
    return of_queries, of_references
