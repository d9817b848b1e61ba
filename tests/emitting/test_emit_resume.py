"""A second run of `write_tar_folder` on the same output."""

import json

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.shard import ShardWork
from clipdre.errors import ClipdreError, OutputError
from tests.emitting.contents import contents, stored
from tests.helpers import all_files, subset_of


@pytest.fixture
def written(monkeypatch):
    """Stems of the shards written so far."""
    stems, write = [], ShardWork._write

    def counting(self, stem, rows):
        stems.append(stem)
        return write(self, stem, rows)

    monkeypatch.setattr(ShardWork, "_write", counting)
    return stems


class TestOnDisk:
    def test_resumes_after_an_interruption(self, scored, tmp_path, written, monkeypatch):
        subset, config = subset_of(scored, by="kl_text", top=100), EmitConfig(shard_size=10)
        write_tar_folder(subset, tmp_path / "whole", config)
        counting = ShardWork._write

        def dying(self, stem, rows):
            if stem == "00000004":
                raise KeyboardInterrupt
            return counting(self, stem, rows)

        with monkeypatch.context() as patch:
            patch.setattr(ShardWork, "_write", dying)
            with pytest.raises(KeyboardInterrupt):
                write_tar_folder(subset, tmp_path / "kept", config)
        assert (tmp_path / "kept" / "unfinished.json").exists()
        assert not (tmp_path / "kept" / "summary.json").exists()
        done = {path.stem for path in (tmp_path / "kept").glob("*.parquet")}
        assert done
        written.clear()
        write_tar_folder(subset, tmp_path / "kept", config)
        assert contents(tmp_path / "kept") == contents(tmp_path / "whole")
        assert sorted([*done, *written]) == [f"{n:08d}" for n in range(10)]

    def test_rewrites_a_tar_that_is_not_the_recorded_size(self, scored, tmp_path, written):
        subset, config = subset_of(scored, by="kl_text", top=30), EmitConfig(shard_size=10)
        write_tar_folder(subset, tmp_path / "kept", config)
        before = contents(tmp_path / "kept")
        plan = json.loads(before["summary.json"])["emitted"]
        (tmp_path / "kept" / "summary.json").unlink()
        (tmp_path / "kept" / "unfinished.json").write_text(json.dumps(plan))
        (tmp_path / "kept" / "00000001.tar").write_bytes(b"cut")
        written.clear()
        write_tar_folder(subset, tmp_path / "kept", config)
        assert written == ["00000001"]
        assert contents(tmp_path / "kept") == before

    def test_leaves_a_finished_subset_as_it_is(self, scored, tmp_path):
        subset = subset_of(scored, by="kl_text", top=20)
        first = write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
        again = subset_of(scored, where="true", by="kl_text", top=20)
        assert write_tar_folder(again, tmp_path / "kept", EmitConfig(writers=1)) == first
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == times

    def test_finishes_a_run_killed_before_its_last_step(self, scored, tmp_path, written):
        subset = subset_of(scored, by="kl_text", top=20)
        summary = write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        (tmp_path / "kept" / "unfinished.json").write_text("{}")
        written.clear()
        assert write_tar_folder(subset, tmp_path / "kept", EmitConfig()) == summary
        assert not written
        assert not (tmp_path / "kept" / "unfinished.json").exists()

    @pytest.mark.parametrize(
        ("top", "shard_size", "difference"),
        [
            (21, 10_000, "other samples"),
            (20, 5, r"other settings \(shard_size 10,000 then, shard_size 5 now\)"),
        ],
    )
    def test_refuses_another_subset(self, scored, tmp_path, top, shard_size, difference):
        write_tar_folder(subset_of(scored, by="kl_text", top=20), tmp_path / "kept", EmitConfig())
        before = contents(tmp_path / "kept")
        other = subset_of(scored, by="kl_text", top=top)
        with pytest.raises(OutputError, match=f"a part of this subset, but one of {difference}:"):
            write_tar_folder(other, tmp_path / "kept", EmitConfig(shard_size=shard_size))
        assert contents(tmp_path / "kept") == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_refused_run_removes_nothing(self, scored, tmp_path, overwrite):
        """Not the files of a run that writes to a subfolder, nor what only looks like its own."""
        kept, leftover = tmp_path / "kept", ".unfinished-host-1-0123abcd-00000000.tar"
        (kept / "sub").mkdir(parents=True)
        (kept / f"{leftover}.d").mkdir()
        for name in ("notes.txt", leftover, f"sub/{leftover}", f"{leftover}.d/mine"):
            (kept / name).write_text("mine")
        before = all_files(kept)
        with pytest.raises(OutputError, match="is not empty and does not hold a subset"):
            write_tar_folder(subset_of(scored), kept, EmitConfig(), overwrite=overwrite)
        assert all_files(kept) == before

    def test_only_leftovers_directly_in_its_folder_are_removed(self, scored, tmp_path):
        kept, leftover = tmp_path / "kept", ".unfinished-host-1-0123abcd-00000000.tar"
        subset, config = subset_of(scored, by="kl_text", top=20), EmitConfig()
        write_tar_folder(subset, tmp_path / "whole", config)
        plan = json.loads((tmp_path / "whole" / "summary.json").read_text())["emitted"]
        (kept / "sub").mkdir(parents=True)
        (kept / f"{leftover}.d").mkdir()
        for name in (leftover, f"sub/{leftover}", f"{leftover}.d/mine"):
            (kept / name).write_text("mine")
        (kept / "unfinished.json").write_text(json.dumps(plan))
        write_tar_folder(subset, kept, config)
        left = {f"sub/{leftover}": b"mine", f"{leftover}.d/mine": b"mine"}
        assert all_files(kept) == all_files(tmp_path / "whole") | left


class TestInAStore:
    def test_writes_the_same_files_as_on_disk(self, scored, tmp_path, store):
        subset, config = subset_of(scored, by="kl_text", top=50), EmitConfig(shard_size=20)
        summary = write_tar_folder(subset, "memory://kept", config)
        assert summary == write_tar_folder(subset, tmp_path / "kept", config)
        assert stored(store, "/kept") == contents(tmp_path / "kept")

    def test_replaces_a_subset_only_with_overwrite(self, scored, store):
        config = EmitConfig(shard_size=20)
        subset = subset_of(scored, by="kl_text", top=50)
        summary = write_tar_folder(subset, "memory://kept", config)
        assert write_tar_folder(subset, "memory://kept", config) == summary
        other = subset_of(scored, by="kl_text", top=51)
        with pytest.raises(OutputError, match="memory://kept is not empty"):
            write_tar_folder(other, "memory://kept", config)
        store.pipe("/kept/notes.txt", b"mine")
        write_tar_folder(other, "memory://kept", EmitConfig(), overwrite=True)
        assert sorted(stored(store, "/kept")) == [
            "00000000.parquet",
            "00000000.tar",
            "00000000_stats.json",
            "notes.txt",
            "sizes.json",
            "summary.json",
        ]

    def test_resumes_after_a_failed_upload(self, scored, tmp_path, store, monkeypatch):
        subset, config = subset_of(scored), EmitConfig(shard_size=50, writers=1)
        put, sent = type(store).put_file, []

        def failing(self, local, remote, **options):
            sent.append(remote.rpartition("/")[2])
            if len(sent) > 8:
                raise PermissionError("no more")
            return put(self, local, remote, **options)

        monkeypatch.setattr(type(store), "put_file", failing)
        with pytest.raises(OutputError, match=r"memory://kept/.*no more"):
            write_tar_folder(subset, "memory://kept", config)
        monkeypatch.undo()
        assert "unfinished.json" in stored(store, "/kept")
        write_tar_folder(subset, "memory://kept", config)
        write_tar_folder(subset, tmp_path / "kept", config)
        assert stored(store, "/kept") == contents(tmp_path / "kept")

    @pytest.mark.parametrize("url", ["nosuch://kept", "https://127.0.0.1:9/kept"])
    def test_a_place_that_cannot_be_written_is_one_line(self, scored, url, monkeypatch):
        monkeypatch.setattr("clipdre.formats.files.remote.WAITS", ())
        with pytest.raises(ClipdreError, match=url) as caught:
            write_tar_folder(subset_of(scored), url, EmitConfig())
        assert "\n" not in str(caught.value)
