"""Comparison of a RunningPartition with the oracle."""

from __future__ import annotations

import numpy as np

from clipdre.core.divergence import effective_sample_size, kl
from clipdre.core.partition import RunningPartition
from tests.core.oracle import of_queries


def estimates(partition: RunningPartition) -> dict[str, np.ndarray]:
    """Compute the estimates of each query, by name."""
    return {
        "log_partition": partition.log_mean_exp().numpy(),
        "kl": kl(partition).numpy(),
        "ess": effective_sample_size(partition).numpy(),
    }


def assert_matches(partition: RunningPartition, logits, tolerance: float = 1e-9) -> None:
    """Compare with the oracle; `logits` holds one row per query, of any lengths."""
    rows = [np.asarray(row, dtype=np.float64) for row in logits]
    expected = of_queries(rows)
    assert partition.weight.tolist() == [len(row) for row in rows]
    for name, values in estimates(partition).items():
        np.testing.assert_allclose(
            values, expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )
