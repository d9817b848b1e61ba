"""Configurations of runs, and comparisons of what they wrote."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.pipelines.score import ScoreConfig
from tests.helpers import TINY


def with_method(method: ReferenceMethod, **options: int) -> ScoreConfig:
    """Configure the embedded model with a reference."""
    return dataclasses.replace(TINY, estimate=EstimateConfig(method, **options))


def assert_same_scores(first: pa.Table, second: pa.Table, atol: float = 1e-4) -> None:
    """Compare score tables: scores up to rounding, other columns exactly."""
    assert first.column_names == second.column_names
    for name in first.column_names:
        if name in SCORE_COLUMNS:
            np.testing.assert_allclose(first[name], second[name], atol=atol, rtol=1e-3)
        else:
            assert first[name].equals(second[name]), name
