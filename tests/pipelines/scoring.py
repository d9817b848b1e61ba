"""Configurations of runs, and comparisons of what they wrote."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.scores import SCORE_COLUMNS
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.pipelines.score import ScoreConfig
from tests.helpers import TINY, all_files, read_scores, rows_of, subset_of


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


def assert_same_folder(folder: Path, unbroken: tuple[Path, Manifest]) -> None:
    """Compare a finished score folder: vectors and scores up to rounding, all else exactly."""
    manifest = read_manifest(folder)
    assert manifest.complete
    files, expected = all_files(folder), all_files(unbroken[0])
    assert set(files) == set(expected)
    assert not list(folder.rglob(".unfinished-*"))
    for name in expected:
        if name.endswith("_emb.npy") or "_emb/" in name:
            vectors = (np.load(place / name) for place in (folder, unbroken[0]))
            np.testing.assert_allclose(*vectors, atol=1e-3)
    assert_same_scores(read_scores(folder, manifest), read_scores(*unbroken), atol=1e-5)
    for by in ("log_ratio", "kl_text", "similarity"):
        kept = [rows_of(subset_of(of, by=by, top=0.3)) for of in ((folder, manifest), unbroken)]
        assert kept[0]["key"].equals(kept[1]["key"])
