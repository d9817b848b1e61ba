"""Fixtures for emitting: a store, and a pool whose shards share keys."""

import tarfile

import fsspec
import pytest

from clipdre.formats.folders import sources
from tests.helpers import pair, tiny_score, write_tar


@pytest.fixture
def store(monkeypatch):
    """The store at memory://, without what a test adds to it; score folders may name it."""
    monkeypatch.setattr(sources, "STORES", (*sources.STORES, "memory"))
    files = fsspec.filesystem("memory")
    before = files.ls("/", detail=False)
    yield files
    for path in files.ls("/", detail=False):
        if path not in before:
            files.rm(path, recursive=True)


@pytest.fixture
def colliding(tmp_path):
    """Shards a and b.c: both hold keys d/0 and d/1, and each a key of its own."""
    (tmp_path / "pool").mkdir()
    for name in ("a", "b.c"):
        samples = [m for n in range(2) for m in pair(f"d/{n}", f"{name} {n}", seed=n)]
        samples += pair(f"only-{name[0]}", "alone")
        write_tar(tmp_path / "pool" / f"{name}.tar", samples, tarfile.PAX_FORMAT)
    return tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
