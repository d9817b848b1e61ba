import pytest

from clipdre.truth.pool import write_pool
from tests.helpers import tiny_score


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A pool of 24 shards, for several workers."""
    folder = tmp_path_factory.mktemp("many")
    write_pool(folder, 480, seed=7, noise={}, shard_size=20)
    return folder


@pytest.fixture(scope="session")
def unbroken(many, tmp_path_factory):
    """The scores of `many`, by one process in one go."""
    folder = tmp_path_factory.mktemp("unbroken") / "scores"
    return folder, tiny_score(many, folder)
