import importlib.util
import math
import sys

import numpy as np
import pytest
import torch

import clipdre.core
from clipdre.core import tiles
from clipdre.core.partition import QueryGroups
from clipdre.core.tiles import accumulate, logits_of, tile_partition
from tests.core.estimates import assert_matches, estimates
from tests.core.oracle import clustered_pool, scores, unit_rows


def pool(seed, n, d, noise):
    return [torch.from_numpy(vectors) for vectors in clustered_pool(seed, n=n, d=d, noise=noise)]


def whole_pool(queries, references, scale, *, tile=64, rows=32, bias=0.0):
    """Partition of each query over all references without its own."""
    own = torch.arange(len(queries))
    parts = zip(torch.split(references, tile), torch.split(own, tile), strict=True)
    return accumulate(queries, parts, scale=scale, bias=bias, groups=own, query_rows=rows)


def without_own(queries, references, scale, bias=0.0):
    logits = scale * queries.numpy() @ references.numpy().T + bias
    return [np.delete(row, n) for n, row in enumerate(logits)]


@pytest.mark.parametrize("bias", [0.0, -12.5])
def test_logits_against_loops(bias):
    rng = np.random.default_rng(0)
    queries, references = 30 * unit_rows(rng, 4, 7), unit_rows(rng, 5, 7)
    found = logits_of(torch.from_numpy(queries), torch.from_numpy(references), bias)
    for n, query in enumerate(queries):
        for m, reference in enumerate(references):
            product = sum(a * b for a, b in zip(query, reference, strict=True))
            assert float(found[n, m]) == pytest.approx(product + bias)


@pytest.mark.parametrize("own", [None, [0, 2, -3, 9]])
def test_tile_partition_leaves_out_the_references_of_a_querys_group(own):
    rng = np.random.default_rng(1)
    queries, references = 30 * unit_rows(rng, 4, 7), unit_rows(rng, 6, 7)
    rows = list(queries @ references.T + 2.0)
    if own is not None:
        rows = [np.delete(rows[0], [0, 5]), np.delete(rows[1], 2), rows[2], rows[3]]
    given = None
    if own is not None:
        given = QueryGroups.of(torch.tensor(own)).left_out(torch.tensor([0, 1, 2, 3, 4, 0]))
    tile = torch.from_numpy(queries), torch.from_numpy(references), 2.0, given
    assert_matches(tile_partition(*tile), rows)
    for split in (0, 2, 6):
        halves = tile_partition(*tile, split=split)
        assert halves.max.shape == (4, 2)
        assert_matches(halves.over_folds(), rows)
        before = 0 if own is None else sum(m < split for m in (0, 5))
        assert float(halves.weight[0, 0]) == split - before


@pytest.mark.parametrize("noise", [0.2, 0.6, 2.0])
@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_fp32_matches_the_float64_oracle(noise, scale):
    images, texts = (vectors.float() for vectors in pool(1, n=500, d=64, noise=noise))
    expected = scores(images.double().numpy(), texts.double().numpy(), scale)
    for modality, (queries, others) in {"image": (images, texts), "text": (texts, images)}.items():
        found = estimates(whole_pool(queries, others, scale, tile=128))
        for name, tolerance in {"log_partition": 1e-4, "kl": 1e-3}.items():
            error = np.abs(found[name] - expected[f"{name}_{modality}"]).max()
            assert error < tolerance, (name, modality, error)
        np.testing.assert_allclose(found["ess"], expected[f"ess_{modality}"], rtol=1e-3)


def test_scale_of_1000_does_not_overflow():
    images, texts = pool(2, n=200, d=32, noise=0.5)
    assert_matches(whole_pool(images, texts, 1000.0), without_own(images, texts, 1000.0))


def test_bias_shifts_the_log_partition_only():
    images, texts = pool(3, n=50, d=16, noise=1.0)
    biased = whole_pool(images, texts, 20.0, bias=-12.5)
    assert_matches(biased, without_own(images, texts, 20.0, bias=-12.5))
    plain, biased = estimates(whole_pool(images, texts, 20.0)), estimates(biased)
    np.testing.assert_allclose(biased["log_partition"], plain["log_partition"] - 12.5)
    for name in ("kl", "ess"):
        np.testing.assert_allclose(biased[name], plain[name], atol=1e-12)


def test_vectors_with_lengths_are_never_rounded_to_fp16(monkeypatch):
    images, texts = (v.float() for v in pool(5, n=6, d=8, noise=1.0))

    def fused(*_):
        raise AssertionError

    monkeypatch.setattr(tiles, "_fastest", lambda _: fused)
    found = accumulate(1e5 * images, [(texts, torch.arange(6))], scale=1.0, has_lengths=True)
    assert torch.isfinite(found.log_mean_exp()).all()
    with pytest.raises(AssertionError):
        accumulate(images, [(texts, torch.arange(6))], scale=1.0)


def test_identical_references_carry_no_information():
    images = torch.from_numpy(unit_rows(np.random.default_rng(4), 10, 8))
    texts = images[:1].expand(10, 8)
    found = estimates(whole_pool(images, texts, 100.0))
    np.testing.assert_allclose(found["log_partition"], 100 * images @ images[0])
    np.testing.assert_allclose(found["kl"], 0, atol=1e-12)
    np.testing.assert_allclose(found["ess"], 9)


def test_pool_of_two_has_one_reference_each():
    images, texts = pool(4, n=2, d=8, noise=1.0)
    found = estimates(whole_pool(images, texts, 100.0))
    np.testing.assert_allclose(
        found["log_partition"], [100 * images[0] @ texts[1], 100 * images[1] @ texts[0]]
    )
    np.testing.assert_allclose(found["kl"], 0, atol=1e-12)
    np.testing.assert_allclose(found["ess"], 1)


@pytest.mark.parametrize(("tile", "rows"), [(1, 1), (7, 3), (64, 100), (90, 90), (1000, 1000)])
def test_tile_sizes_do_not_change_results(tile, rows):
    images, texts = pool(5, n=90, d=16, noise=0.7)
    found = whole_pool(images, texts, 100.0, tile=tile, rows=rows)
    assert_matches(found, without_own(images, texts, 100.0))


def test_leaves_out_own_counterpart_even_if_it_dominates():
    images = torch.eye(5, dtype=torch.float64)
    found = estimates(whole_pool(images, images, 500.0))
    np.testing.assert_allclose(found["log_partition"], 0, atol=1e-12)  # the other logits are 0
    everything = accumulate(images, [(images, torch.arange(5))], scale=500.0)
    np.testing.assert_allclose(everything.log_mean_exp().numpy(), 500 - math.log(5))


def test_cpu_runs_the_plain_kernel():
    assert tiles._fastest(torch.device("cpu")) is tile_partition


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_gpu_runs_the_fused_kernel():
    from clipdre.core import fused

    assert tiles._fastest(torch.device("cuda")) is fused.tile_partition


def test_gpu_without_triton_runs_the_plain_kernel(monkeypatch):
    monkeypatch.delattr(clipdre.core, "fused", raising=False)
    monkeypatch.setitem(sys.modules, "clipdre.core.fused", None)
    assert tiles._fastest(torch.device("cuda")) is tile_partition
