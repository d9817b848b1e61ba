"""The fused kernel against the plain one; test_fused.py runs these on a GPU or interpreted."""

import numpy as np
import pytest
import torch

from clipdre.core import fused
from clipdre.core import tiles as plain
from clipdre.core.divergence import effective_sample_size, kl
from clipdre.core.partition import QueryGroups
from tests.core.oracle import clustered_pool

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def short_walks(monkeypatch):
    monkeypatch.setattr(fused, "WALK", 2)


def pool(n, m, d):
    """Scaled queries and references that fp16 represents exactly, so that only sums may differ."""
    images, texts = clustered_pool(6, n=max(n, m), d=d, noise=0.5)
    vectors = (100 * images[:n], texts[:m])
    return [torch.tensor(v, device=DEVICE).half().float() for v in vectors]


def assert_same(found, expected):
    torch.testing.assert_close(found.weight, expected.weight)
    for statistic, most in ((lambda p: p.log_mean_exp(), 1e-4), (kl, 1e-3)):
        assert (statistic(found) - statistic(expected)).abs().max() < most
    ess = [effective_sample_size(part).cpu().numpy() for part in (found, expected)]
    np.testing.assert_allclose(*ess, rtol=1e-3)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 3, 16), (130, 600, 40), (128, 256, 64)])
@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_matches_the_plain_kernel(n, m, d, bias):
    queries, references = pool(n, m, d)
    # Some queries leave nothing out, others one reference or several.
    groups = (torch.arange(n, device=DEVICE) - 1) // 2
    left_out = QueryGroups.of(groups).left_out(torch.arange(m, device=DEVICE) // 2 * 3 % (n + 5))
    assert len(left_out[0])
    found = fused.tile_partition(queries, references, bias, left_out)
    assert_same(found, plain.tile_partition(queries, references, bias, left_out))
    found = fused.tile_partition(queries, references, bias, None)
    assert_same(found, plain.tile_partition(queries, references, bias, None))


def test_query_with_only_its_own_counterpart_is_empty_and_merges():
    queries, references = pool(2, 1, 16)
    left_out = tuple(torch.tensor([0], device=DEVICE) for _ in range(2))
    found = fused.tile_partition(queries, references, 0.0, left_out)
    assert found.weight.tolist() == [0, 1]
    assert found.exp.tolist() == [0, 1]
    other = plain.tile_partition(queries, references, 0.0, None)
    assert_same(
        found.merge(other), plain.tile_partition(queries, references, 0.0, left_out).merge(other)
    )
