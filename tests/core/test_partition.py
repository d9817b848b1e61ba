import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.partition import QueryGroups, RunningPartition, leave_out, select_rows
from tests.core.estimates import assert_matches, estimates

FIELDS = [f.name for f in fields(RunningPartition)]


@pytest.fixture
def logits():
    return 20 * torch.randn(6, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.1, 1, 10, 1000])
def test_matches_the_oracle(logits, scale):
    assert_matches(RunningPartition.of(scale * logits), scale * logits)


def test_float32_is_close_to_the_oracle(logits):
    assert_matches(RunningPartition.of(logits.float()), logits.float(), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distant_logits_neither_overflow_nor_count(dtype):
    tile = torch.tensor([[5000.0, -5000.0, 5000.0, -90.0]], dtype=dtype)
    found = estimates(RunningPartition.of(tile))
    assert found["log_partition"] == pytest.approx(5000 + math.log(2 / 4))
    assert found["kl"] == pytest.approx(math.log(2))
    assert found["ess"] == pytest.approx(2)


def test_left_out_references_do_not_count(logits):
    left_out = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    kept = [row[~out] for row, out in zip(logits, left_out, strict=True)]
    assert_matches(RunningPartition.of(logits.clone(), left_out), kept)


def test_query_without_references_is_neutral(logits):
    left_out = torch.ones(logits.shape, dtype=torch.bool)
    nothing = RunningPartition.of(logits.clone(), left_out)
    for name in ("weight", "exp", "s_exp", "exp_sq"):
        assert getattr(nothing, name).tolist() == [0] * len(logits), name
    assert_matches(nothing.merge(RunningPartition.of(logits.clone())), logits)
    assert_matches(RunningPartition.of(logits.clone()).merge(nothing), logits)


def test_tile_without_columns_is_empty():
    found, expected = RunningPartition.of(torch.zeros(3, 0)), RunningPartition.empty(3)
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


columns = st.lists(
    st.lists(st.floats(-300, 300, allow_nan=False), min_size=4, max_size=4), min_size=2, max_size=12
)


@given(columns, st.integers(0, 12), st.randoms())
def test_merging_does_not_depend_on_tiles_or_order(columns, cut, random):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    shuffled = list(range(tile.shape[1]))
    random.shuffle(shuffled)
    first = RunningPartition.of(tile[:, shuffled[:cut]].clone())
    second = RunningPartition.of(tile[:, shuffled[cut:]].clone())
    assert_matches(first.merge(second), tile)
    assert_matches(second.merge(first), tile)


@given(columns)
def test_empty_partition_is_neutral(columns):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    whole = RunningPartition.of(tile.clone())
    merged = RunningPartition.empty(len(tile)).merge(whole)
    for name in FIELDS:
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name


@given(columns, st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_weight_counts_as_copies(columns, copies):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    weighted = RunningPartition.of(tile.clone()).scale(torch.tensor(copies))
    repeated = [row.repeat(n) for row, n in zip(tile, copies, strict=True)]
    # With weights, the sum of squares is w e^2s; the effective size therefore counts copies too.
    assert_matches(weighted, repeated)


def test_folds_merge_to_the_whole(logits):
    folds = RunningPartition.of(logits.clone().view(6, 5, 6))
    assert_matches(folds.over_folds(), logits)
    for k in range(5):
        assert_matches(folds.fold(k), logits[:, 6 * k : 6 * k + 6])


def test_stack_is_the_inverse_of_fold(logits):
    folds = RunningPartition.of(logits.clone().view(6, 5, 6))
    stacked = RunningPartition.stack([folds.fold(k) for k in range(5)])
    for name in FIELDS:
        assert torch.equal(getattr(stacked, name), getattr(folds, name)), name


def test_cat_keeps_queries_in_order(logits):
    parts = [RunningPartition.of(logits[rows].clone()) for rows in (slice(0, 2), slice(2, 6))]
    assert_matches(RunningPartition.cat(parts), logits)


def test_merge_rows_changes_only_the_given_queries(logits):
    part = RunningPartition.of(logits[:, :10].clone())
    rows = torch.tensor([4, 1])
    part.merge_rows(rows, RunningPartition.of(logits[rows, 10:].clone()))
    seen = [row if n in (1, 4) else row[:10] for n, row in enumerate(logits)]
    assert_matches(part, seen)


@pytest.mark.parametrize("queries", [[7, 2, -1], [5, 7, 7]])
def test_leave_out_leaves_out_the_references_of_the_querys_group(queries):
    references = [7, 2, 7, 0]
    tile = torch.arange(12.0).view(3, 4)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    same = np.array([[group == own for group in references] for own in queries])
    expected = np.where(same, -np.inf, np.arange(12).reshape(3, 4))
    left_out = QueryGroups.of(torch.tensor(queries)).left_out(torch.tensor(references))
    counts = same.sum(axis=1).tolist()
    assert leave_out(tile, left_out).tolist() == counts
    assert leave_out(mask, left_out).tolist() == counts
    np.testing.assert_array_equal(tile.numpy(), expected)
    np.testing.assert_array_equal(mask.numpy(), same)


def test_leave_out_matches_a_comparison_of_all_groups():
    rng = np.random.default_rng(3)
    queries, references = (torch.from_numpy(rng.integers(-1, 20, n)) for n in (50, 70))
    mask = torch.zeros(50, 70, dtype=torch.bool)
    groups = QueryGroups.of(queries)
    leave_out(mask, groups.left_out(references))
    assert torch.equal(mask, queries[:, None] == references[None, :])
    nothing = torch.zeros(50, 0, dtype=torch.bool)
    assert leave_out(nothing, groups.left_out(references[:0])).tolist() == [0] * 50
    some = torch.tensor([3, 4, 17, 49])
    of_some = torch.zeros(4, 70, dtype=torch.bool)
    leave_out(of_some, select_rows(groups.left_out(references), some))
    assert torch.equal(of_some, mask[some])


@pytest.mark.parametrize("folds", [(), (4,)])
def test_with_own_counts_one_more_reference(logits, folds):
    part = RunningPartition.of(logits.clone() if not folds else logits.view(6, 5, 6).clone())
    own = torch.linspace(-3.0, 5.0, 6, dtype=torch.float64)
    found = part.with_own(own)
    rows = logits.view(6, -1, 6) if folds else logits[:, None, :]
    for k in range(rows.shape[1]):
        more = torch.cat([rows[:, k], own[:, None].to(logits.dtype)], dim=1)
        assert_matches(found.fold(k) if folds else found, more)


def test_some_folds_keep_their_order(logits):
    folds = RunningPartition.of(logits.clone().view(6, 5, 6))
    assert torch.equal(folds.select_folds(slice(1, 3)).exp, folds.exp[:, 1:3])
