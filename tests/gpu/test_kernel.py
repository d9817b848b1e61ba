"""The fused kernel against the plain one in float64, at the sizes of real models."""

import numpy as np
import pytest
import torch

from clipdre.core import tiles
from clipdre.core.divergence import effective_sample_size, kl
from clipdre.core.partition import QueryGroups
from tests.core.oracle import clustered_pool


def statistics(partition):
    return [
        partition.log_mean_exp().cpu().numpy(),
        kl(partition).cpu().numpy(),
        np.log(effective_sample_size(partition).cpu().numpy()),
    ]


@pytest.mark.parametrize("d", [64, 512, 768, 1152, 1280])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, 0.0), (100.0, 0.0), (112.0, -12.9)])
@pytest.mark.parametrize(("n", "m"), [(1000, 3001), (257, 129), (4096, 8192)])
def test_it_is_the_oracle_at_the_sizes_of_models(device, d, scale, bias, n, m):
    fused = pytest.importorskip("clipdre.core.fused")
    images, texts = clustered_pool(6, n=max(n, m), d=d, noise=0.6)
    queries = torch.tensor(scale * images[:n], device=device).half()
    references = torch.tensor(texts[:m], device=device).half()
    groups = torch.arange(n, device=device) // 2
    left_out = QueryGroups.of(groups).left_out(torch.arange(m, device=device) // 2)
    found = fused.tile_partition(queries.float(), references.float(), bias, left_out)
    exact = tiles.tile_partition(queries.double(), references.double(), bias, left_out)
    for ours, theirs in zip(statistics(found), statistics(exact), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_it_is_what_estimation_uses_here(device):
    from clipdre.core import fused

    assert tiles._fastest(device) is fused.tile_partition
