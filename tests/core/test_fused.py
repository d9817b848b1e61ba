import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipdre.core.tiles import tile_partition
from tests.core.oracle import clustered_pool


def test_kernel_matches_the_plain_one():
    """Run on a GPU if there is one, else in Triton's interpreter, chosen when Python starts."""
    pytest.importorskip("triton", reason="torch installs Triton only for GPUs")
    cases = Path(__file__).with_name("kernel_cases.py")
    where = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    run = subprocess.run(
        command, env={**os.environ, **where}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.004), (torch.bfloat16, 0.02)])
def test_half_precision_products_summed_in_fp32_are_accurate(dtype, most):
    images, texts = clustered_pool(7, n=2000, d=512, noise=0.6)
    queries, references = torch.from_numpy(images), torch.from_numpy(texts)
    exact = tile_partition(100 * queries, references, 0.0, None).log_mean_exp()
    rounded = [
        (scale * rows).to(dtype).float() for scale, rows in ((100, queries), (1, references))
    ]
    found = tile_partition(*rounded, 0.0, None).log_mean_exp()
    assert (found - exact).square().mean().sqrt() < most
