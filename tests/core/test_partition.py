import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.divergence import effective_sample_size, kl
from clipdre.core.partition import RunningPartition
from clipdre.core.tiles import accumulate
from tests.core.oracle import clustered_pool, scores

FIELDS = ("max", "weight", "exp", "s_exp", "exp_sq")


def estimates(partition: RunningPartition) -> dict[str, np.ndarray]:
    return {
        "log_partition": partition.log_mean_exp().numpy(),
        "kl": kl(partition).numpy(),
        "ess": effective_sample_size(partition).numpy(),
    }


def whole_pool(images, texts, scale, *, tile=64, rows=32, bias=0.0):
    own = torch.arange(len(images))
    tiles = [(start, texts[start : start + tile]) for start in range(0, len(texts), tile)]
    return accumulate(images, tiles, scale=scale, bias=bias, own=own, query_rows=rows)


@pytest.mark.parametrize("noise", [0.2, 0.6, 2.0])
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_exact_in_fp32_against_the_float64_oracle(noise, scale):
    images, texts = clustered_pool(1, n=500, d=64, noise=noise)
    images, texts = images.astype(np.float32), texts.astype(np.float32)
    expected = scores(images.astype(np.float64), texts.astype(np.float64), scale)
    for side, (queries, others) in {"image": (images, texts), "text": (texts, images)}.items():
        found = estimates(
            whole_pool(torch.from_numpy(queries), torch.from_numpy(others), scale, tile=128)
        )
        for name, tolerance in {"log_partition": 1e-4, "kl": 1e-3}.items():
            error = np.abs(found[name] - expected[f"{name}_{side}"]).max()
            assert error < tolerance, (name, side, error)
        np.testing.assert_allclose(found["ess"], expected[f"ess_{side}"], rtol=1e-3)


def test_scale_1000_does_not_overflow_and_agrees_with_the_oracle():
    images, texts = clustered_pool(2, n=200, d=32, noise=0.5)
    expected = scores(images, texts, 1000.0)
    found = estimates(whole_pool(torch.from_numpy(images), torch.from_numpy(texts), 1000.0))
    np.testing.assert_allclose(found["log_partition"], expected["log_partition_image"], atol=1e-9)
    np.testing.assert_allclose(found["kl"], expected["kl_image"], atol=1e-9)


def test_bias_shifts_the_partition_and_nothing_else():
    images, texts = (torch.from_numpy(x) for x in clustered_pool(3, n=50, d=16, noise=1.0))
    plain = estimates(whole_pool(images, texts, 20.0))
    biased = estimates(whole_pool(images, texts, 20.0, bias=-12.5))
    np.testing.assert_allclose(biased["log_partition"], plain["log_partition"] - 12.5)
    for name in ("kl", "ess"):
        np.testing.assert_allclose(biased[name], plain[name], atol=1e-12)


def test_identical_references_tell_nothing():
    images = torch.nn.functional.normalize(torch.randn(10, 8, dtype=torch.float64), dim=1)
    texts = images[:1].expand(10, 8)
    found = estimates(whole_pool(images, texts, 100.0))
    np.testing.assert_allclose(found["kl"], 0, atol=1e-12)
    np.testing.assert_allclose(found["ess"], 9)


def test_a_pool_of_two_has_one_counterpart_each():
    images, texts = (torch.from_numpy(x) for x in clustered_pool(4, n=2, d=8, noise=1.0))
    found = estimates(whole_pool(images, texts, 100.0))
    np.testing.assert_allclose(
        found["log_partition"], [100 * images[0] @ texts[1], 100 * images[1] @ texts[0]]
    )
    np.testing.assert_allclose(found["kl"], 0, atol=1e-12)
    np.testing.assert_allclose(found["ess"], 1)


logits = st.lists(
    st.lists(st.floats(-300, 300, allow_nan=False), min_size=4, max_size=4), min_size=2, max_size=12
)


@given(logits, st.integers(1, 11), st.randoms())
def test_merging_does_not_depend_on_tiles_or_order(columns, cut, random):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    whole = RunningPartition.of(tile.clone())
    shuffled = list(range(tile.shape[1]))
    random.shuffle(shuffled)
    cut = min(cut, tile.shape[1])
    first = RunningPartition.of(tile[:, shuffled[:cut]].clone())
    second = RunningPartition.of(tile[:, shuffled[cut:]].clone())
    for merged in (first.merge(second), second.merge(first)):
        for name, value in estimates(merged).items():
            np.testing.assert_allclose(value, estimates(whole)[name], rtol=1e-9, atol=1e-9)


@given(logits)
def test_the_empty_partition_is_neutral(columns):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    whole = RunningPartition.of(tile.clone())
    merged = RunningPartition.empty(len(tile)).merge(whole)
    for name in FIELDS:
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name


@given(logits, st.integers(2, 5))
def test_a_weight_is_a_number_of_copies(columns, copies):
    tile = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    weighted = RunningPartition.of(tile.clone()).scale(float(copies))
    repeated = RunningPartition.of(tile.repeat(1, copies))
    for name, value in estimates(weighted).items():
        np.testing.assert_allclose(value, estimates(repeated)[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("tile", "rows"), [(1, 1), (7, 3), (64, 100), (1000, 1000)])
def test_accumulate_does_not_depend_on_tile_sizes(tile, rows):
    images, texts = (torch.from_numpy(x) for x in clustered_pool(5, n=90, d=16, noise=0.7))
    expected = estimates(whole_pool(images, texts, 100.0, tile=90, rows=90))
    found = estimates(whole_pool(images, texts, 100.0, tile=tile, rows=rows))
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9)


def test_own_counterpart_is_left_out_even_where_it_dominates():
    images = torch.eye(5, dtype=torch.float64)
    own = estimates(whole_pool(images, images, 500.0))
    np.testing.assert_allclose(own["log_partition"], 0, atol=1e-12)  # the others' logits are all 0
    seen = accumulate(images, [(0, images)], scale=500.0)
    np.testing.assert_allclose(seen.log_mean_exp().numpy(), 500 - math.log(5))
