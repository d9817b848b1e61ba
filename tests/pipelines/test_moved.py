"""Pools and score folders that are moved, copied or touched."""

import json
import os
import shutil

import msgspec
import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.relocate import relocated
from clipdre.encoding import jobs as encoding_jobs
from clipdre.errors import InputError, ScoresError
from clipdre.formats.folders.manifest import MANIFEST, read_manifest
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines.score import score
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, subset_of, tiny_score


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A pool of two shards and its scores, after which nothing is encoded."""
    write_pool(tmp_path / "pool", 40, seed=3, noise={}, shard_size=20)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
    monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
    return tmp_path / "pool", (tmp_path / "s", manifest)


def emitted(scored, tmp_path, **options):
    """Emit some samples; return the tar."""
    subset = subset_of(scored, by="log_ratio", top=10)
    shutil.rmtree(tmp_path / "kept", ignore_errors=True)
    write_tar_folder(subset, tmp_path / "kept", EmitConfig())
    return (tmp_path / "kept" / "00000000.tar").read_bytes()


def touch(pool):
    for path in pool.glob("*.tar"):
        os.utime(path, (1, 1))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def forget_samples(scored):
    """Make a manifest as a clipdre wrote it that took no samples of content."""
    folder, manifest = scored
    shards = [msgspec.structs.replace(shard, sample="") for shard in manifest.shards]
    msgspec.structs.replace(manifest, shards=tuple(shards)).write(folder)
    return folder, read_manifest(folder)


def test_any_working_directory_does(tmp_path, monkeypatch):
    write_pool(tmp_path / "pool", 40, seed=3, noise={}, shard_size=20)
    monkeypatch.chdir(tmp_path)
    urls = ["pool/00000.tar", "pool/00001.tar"]
    manifest = score(urls, tmp_path / "s", TINY)
    assert [shard.url for shard in manifest.shards] == [str(tmp_path / url) for url in urls]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tiny_score(tmp_path / "pool", tmp_path / "s") == manifest
    assert emitted((tmp_path / "s", manifest), tmp_path)


class TestTouched:
    def test_shards_are_the_same_if_their_content_is(self, begun, tmp_path):
        pool, scored = begun
        expected = emitted(scored, tmp_path)
        touch(pool)
        assert tiny_score(pool, scored[0]) == scored[1]
        assert emitted(scored, tmp_path) == expected

    def test_another_content_is_another_shard(self, begun, tmp_path):
        pool, scored = begun
        flip(pool / "00001.tar", -1)
        with pytest.raises(ScoresError, match=r"hold: 00001 \(changed: same size, another time"):
            tiny_score(pool, scored[0])
        with pytest.raises(
            InputError, match=r"00001\.tar has changed since it was scored"
        ) as caught:
            emitted(scored, tmp_path)
        assert caught.value.cure.endswith("or name the tars that were scored with `shards`")

    def test_without_a_sample_only_the_time_counts(self, begun, tmp_path):
        pool, scored = begun
        scored = forget_samples(scored)
        assert tiny_score(pool, scored[0]) == scored[1]
        touch(pool)
        with pytest.raises(ScoresError, match="another time of change"):
            tiny_score(pool, scored[0])
        with pytest.raises(InputError, match="another time of change"):
            emitted(scored, tmp_path)


class TestMoved:
    def test_a_copy_takes_the_place_of_the_pool(self, begun, tmp_path):
        pool, scored = begun
        expected = emitted(scored, tmp_path)
        shutil.copytree(pool, tmp_path / "copy", copy_function=shutil.copy)
        shutil.rmtree(pool)
        with pytest.raises(InputError, match="cannot find") as caught:
            emitted(scored, tmp_path)
        assert "name it with `shards`, or score its new place into the same" in caught.value.cure
        manifest = tiny_score(tmp_path / "copy", scored[0])
        assert manifest.reference == scored[1].reference
        assert manifest.shards[0].url == str(tmp_path / "copy" / "00000.tar")
        assert read_manifest(scored[0]) == manifest
        assert emitted((scored[0], manifest), tmp_path) == expected

    def test_a_tar_of_the_same_name_and_size_is_no_copy(self, begun, tmp_path):
        pool, scored = begun
        pool.rename(tmp_path / "new")
        flip(tmp_path / "new" / "00001.tar", -1)
        selection = subset_of(scored, where="shard = '00001'").selection
        moved = relocated(selection, expand_shards([str(tmp_path / "new")]))
        assert type(moved).__name__ == "_SearchedSubset"

    def test_a_score_folder_may_hold_its_shards_and_move_with_them(self, begun, tmp_path):
        pool, scored = begun
        expected = emitted(scored, tmp_path)
        pool.rename(scored[0] / "pool")
        manifest = tiny_score(scored[0] / "pool", scored[0])
        assert manifest.shards[0].url == str(scored[0] / "pool" / "00000.tar")
        raw = json.loads((scored[0] / MANIFEST).read_text())
        assert [shard["url"] for shard in raw["shards"]] == ["pool/00000.tar", "pool/00001.tar"]
        scored[0].rename(tmp_path / "t")
        found = read_manifest(tmp_path / "t")
        assert found.shards[1].url == str(tmp_path / "t" / "pool" / "00001.tar")
        assert emitted((tmp_path / "t", found), tmp_path) == expected

    def test_relative_paths_of_older_manifests_are_read(self, begun, tmp_path, monkeypatch):
        _, scored = begun
        expected = emitted(scored, tmp_path)
        path = scored[0] / MANIFEST
        path.write_text(path.read_text().replace(f"{tmp_path}/", ""))
        monkeypatch.chdir(tmp_path)
        found = read_manifest(scored[0])
        assert found.shards[0].url == "pool/00000.tar"
        assert emitted((scored[0], found), tmp_path) == expected
        assert tiny_score(tmp_path / "pool", scored[0]).shards[0].url.startswith("/")
