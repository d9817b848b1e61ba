"""Several processes that score one folder, a slice each, as machines do on shared storage."""

import dataclasses
import multiprocessing
import shutil
import threading
import time

import pytest

from clipdre.config import ReadConfig, ReferenceMethod
from clipdre.encoding import jobs as encoding_jobs
from clipdre.errors import OutputError, ScoresError, UsageError
from clipdre.formats.files.storage import exclusive, shared
from clipdre.formats.folders.manifest import read_manifest
from clipdre.slices import Slice
from tests.helpers import TINY, all_files, tiny_score
from tests.pipelines.scoring import assert_same_folder, with_method

SLICES = 8


def encoded(folder):
    return sorted(path.name for path in folder.glob("embeddings/metadata/metadata_*"))


def test_slices_of_which_two_are_killed_end_like_one_run(many, unbroken, tmp_path):
    context = multiprocessing.get_context("forkserver")  # loads torch once
    context.set_forkserver_preload(["tests.helpers"])
    slices = [
        context.Process(
            target=tiny_score, args=(many, tmp_path / "s"), kwargs={"slice": Slice(n, SLICES)}
        )
        for n in range(1, SLICES + 1)
    ]
    for process in slices:
        process.start()
    while not encoded(tmp_path / "s"):
        time.sleep(0.005)
    killed = [process for process in slices if process.is_alive()][-2:]
    for process in killed:
        process.kill()
    for process in slices:
        process.join()
    assert [process.exitcode for process in killed] == [-9, -9]
    assert [process.exitcode for process in slices if process not in killed] == [0] * (SLICES - 2)
    before = encoded(tmp_path / "s")
    assert len(many_shards(unbroken)) * 6 // 8 <= len(before) < len(many_shards(unbroken))
    assert not (tmp_path / "s" / "scores").exists()
    tiny_score(many, tmp_path / "s")
    assert_same_folder(tmp_path / "s", unbroken)


def many_shards(scored):
    return scored[1].shards


class TestSlice:
    def test_encodes_its_shards_and_estimates_nothing(self, many, unbroken, tmp_path):
        found = tiny_score(many, tmp_path / "s", slice=Slice(2, 5))
        assert [shard.name for shard in found.shards] == [
            "00001",
            "00006",
            "00011",
            "00016",
            "00021",
        ]
        assert (found.rows, found.complete) == (100, False)
        assert not (tmp_path / "s" / "scores").exists()
        assert not (tmp_path / "s" / "reference").exists()
        assert len(read_manifest(tmp_path / "s").shards) == 24
        again = tiny_score(many, tmp_path / "s", slice=Slice(2, 5))
        assert again == found

    def test_encodes_no_shard_twice(self, many, unbroken, tmp_path, monkeypatch):
        for n in range(1, 4):
            tiny_score(many, tmp_path / "s", slice=Slice(n, 3))
        monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
        for part in (Slice(1, 3), Slice(4, 7), None):  # another count is another choice, no more
            tiny_score(many, tmp_path / "s", slice=part)
        assert_same_folder(tmp_path / "s", unbroken)

    def test_of_more_slices_than_shards_may_have_none(self, pool, tmp_path):
        found = tiny_score(pool, tmp_path / "s", slice=Slice(4, 4))
        assert (found.shards, found.rows) == ((), 0)

    def test_of_a_finished_run_changes_nothing(self, pool, scored):
        before = all_files(scored[0])
        assert tiny_score(pool, scored[0], slice=Slice(1, 2)).complete
        assert all_files(scored[0]) == before

    def test_of_a_grown_pool_leaves_the_old_scores_until_the_new_are_complete(
        self, many, unbroken, tmp_path, monkeypatch
    ):
        (tmp_path / "pool").mkdir()
        tars = sorted(many.glob("*.tar"))
        for tar in tars[:10]:
            shutil.copy2(tar, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        for tar in tars[10:]:
            shutil.copy2(tar, tmp_path / "pool")
        for n in (1, 2):
            found = tiny_score(tmp_path / "pool", tmp_path / "s", slice=Slice(n, 2))
            assert (found.rows, found.complete) == (240, False)
            assert read_manifest(tmp_path / "s").rows == 200
        monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
        assert tiny_score(tmp_path / "pool", tmp_path / "s").rows == 480
        assert encoded(tmp_path / "s") == encoded(unbroken[0])


class TestPlan:
    """The first slice decides; others follow it, or are refused."""

    @pytest.mark.parametrize(
        ("config", "difference"),
        [
            (
                dataclasses.replace(TINY, read=ReadConfig(caption_field="title")),
                r"read caption_field \(none then, title now\)",
            ),
            (
                with_method(ReferenceMethod.SAMPLE),
                r"estimate method \(auto then, sample now\)",
            ),
        ],
    )
    def test_other_settings_are_named(self, pool, tmp_path, config, difference):
        tiny_score(pool, tmp_path / "s", slice=Slice(1, 2))
        before = all_files(tmp_path / "s")
        with pytest.raises(ScoresError, match=f"differs in {difference}: give each slice"):
            tiny_score(pool, tmp_path / "s", config, slice=Slice(2, 2))
        assert all_files(tmp_path / "s") == before

    @pytest.mark.parametrize("tars", [2, 3])
    def test_other_shards_are_named(self, pool, tmp_path, tars):
        for name, numbers in (("first", range(tars)), ("second", range(5 - tars))):
            (tmp_path / name).mkdir()
            for n in numbers:
                (tmp_path / name / f"{n:05d}.tar").symlink_to(pool / f"{n:05d}.tar")
        tiny_score(tmp_path / "first", tmp_path / "s", slice=Slice(1, 2))
        with pytest.raises(ScoresError, match="give each slice the same shards"):
            tiny_score(tmp_path / "second", tmp_path / "s", slice=Slice(2, 2))

    def test_a_failed_try_is_not_removed_by_a_slice(self, pool, tmp_path):
        """Another slice may be about to write its first shard."""
        tiny_score(pool, tmp_path / "s", slice=Slice(4, 4))
        other = dataclasses.replace(TINY, read=ReadConfig(caption_field="title"))
        with pytest.raises(ScoresError, match="differs in read caption_field"):
            tiny_score(pool, tmp_path / "s", other, slice=Slice(1, 4))

    def test_of_two_first_slices_one_writes_it(self, pool, tmp_path):
        """All begin at once; each must end up with the same plan."""
        threads = [
            threading.Thread(
                target=tiny_score, args=(pool, tmp_path / "s"), kwargs={"slice": Slice(n, 3)}
            )
            for n in range(1, 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(encoded(tmp_path / "s")) == 3

    def test_overwriting_is_refused(self, pool, tmp_path):
        with pytest.raises(UsageError, match="`slice` cannot be used with `overwrite`"):
            tiny_score(pool, tmp_path / "s", slice=Slice(1, 2), overwrite=True)


class TestLock:
    def test_slices_and_a_whole_run_exclude_each_other(self, pool, tmp_path):
        with exclusive(tmp_path / "s"), pytest.raises(OutputError, match="another run"):
            tiny_score(pool, tmp_path / "s", slice=Slice(1, 2))
        with shared(tmp_path / "s"), pytest.raises(OutputError, match="another run"):
            tiny_score(pool, tmp_path / "s")

    def test_a_slice_leaves_what_others_are_writing(self, pool, tmp_path):
        tiny_score(pool, tmp_path / "s", slice=Slice(1, 2))
        place = tmp_path / "s" / "embeddings" / "metadata"
        (place / ".unfinished-other-1-0123abcd-metadata_2.parquet").write_text("half")
        tiny_score(pool, tmp_path / "s", slice=Slice(2, 2))
        assert list(place.glob(".unfinished-*"))
        tiny_score(pool, tmp_path / "s")
        assert not list(place.glob(".unfinished-*"))
