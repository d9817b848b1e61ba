import shutil

import pytest


@pytest.fixture
def scores(scored, tmp_path):
    """A score folder of three shards to add columns to."""
    return shutil.copytree(scored[0], tmp_path / "scores")
