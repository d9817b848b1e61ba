"""A query over the scored pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.sql.query import ScoreQuery


@pytest.fixture
def query(scored: tuple[Path, Manifest]) -> ScoreQuery:
    """All columns of the scored pool."""
    folder, manifest = scored
    return ScoreQuery(ScoreFolder(folder), manifest)
