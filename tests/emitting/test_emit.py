import errno
import gzip
import io
import json
import os
import shutil
import tarfile

import fsspec
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipdre.config import EmitConfig
from clipdre.emitting import emit
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.export import write_tar_stream
from clipdre.emitting.relocate import relocated
from clipdre.errors import ClipdreError, InputError, OutputError
from clipdre.pipelines.score import score
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, pair, png, rows_of, subset_of, tiny_score, write_tar

# webdataset leaves its tars to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def members(path):
    with tarfile.open(path) as tar:
        return [(m.name, m.size, tar.extractfile(m).read()) for m in tar.getmembers()]


def expected_members(subset, pool):
    by_name = {}
    for path in sorted(pool.glob("*.tar")):
        by_name |= {(path.stem, name): (name, size, data) for name, size, data in members(path)}
    table = rows_of(subset)
    return [
        by_name[shard, f"{key}.{suffix}"]
        for shard, key in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        for suffix in ("png", "txt", "json")
    ]


def test_kept_samples_are_byte_identical_in_pool_order(scored, pool, tmp_path):
    subset = subset_of(scored, by="log_ratio", top=0.3)
    summary = write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=40))
    names = sorted(os.listdir(tmp_path / "kept"))
    tars = [f"{n:08d}.tar" for n in range(3)]
    beside = [t.replace(".tar", end) for t in tars for end in (".tar", ".parquet", "_stats.json")]
    assert names == sorted([*beside, "summary.json"])
    found = [m for name in tars for m in members(tmp_path / "kept" / name)]
    assert found == expected_members(subset, pool)
    assert [shard["samples"] for shard in summary["shards"]] == [40, 40, 10]
    assert summary == json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert (summary["pool"], summary["steps"][0]["asked"], summary["kept"]) == (300, 90, 90)
    assert summary["rule"]["steps"][0]["by"] == "log_ratio"
    stats = [json.loads((tmp_path / "kept" / f"{n:08d}_stats.json").read_text()) for n in range(3)]
    assert [stat["successes"] for stat in stats] == [40, 40, 10]


def test_webdataset_reads_what_the_scores_beside_say(scored, tmp_path):
    write_tar_folder(
        subset_of(scored, by="kl_text", top=70), tmp_path / "kept", EmitConfig(shard_size=50)
    )
    for n, size in enumerate((50, 20)):
        path = tmp_path / "kept" / f"{n:08d}.tar"
        table = pq.read_table(path.with_suffix(".parquet"))
        samples = list(wds.WebDataset(str(path), shardshuffle=False))
        assert len(samples) == size
        assert [s["__key__"] for s in samples] == table["key"].to_pylist()
        assert [s["txt"].decode() for s in samples] == table["caption"].to_pylist()


def test_open_clips_training_loader_reads_the_subset(scored, tmp_path):
    """The stages of open_clip's training data pipeline, as it builds them from webdataset."""
    write_tar_folder(
        subset_of(scored, by="kl_text", top=30), tmp_path / "kept", EmitConfig(shard_size=50)
    )
    pipeline = wds.DataPipeline(
        wds.SimpleShardList([str(tmp_path / "kept" / "00000000.tar")]),
        wds.tarfile_to_samples(),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.to_tuple("image", "text"),
    )
    loaded = list(pipeline)
    assert len(loaded) == 30
    assert all(image.size == (64, 64) and isinstance(text, str) for image, text in loaded)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_come_through(tmp_path, format):
    long = "é" * 20 if format == tarfile.USTAR_FORMAT else "é" * 120
    (tmp_path / "pool").mkdir()
    source = [m for n in range(6) for m in pair(f"{long}{n}", f"caption {n}", seed=n)]
    write_tar(tmp_path / "pool" / "a.tar", source, format)
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    subset = subset_of(scored, by="log_ratio", top=3)
    write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=10))
    keys = rows_of(subset)["key"].to_pylist()
    kept = {name: data for name, _, data in members(tmp_path / "kept" / "00000000.tar")}
    assert kept == {name: data for name, data in source if name.rpartition(".")[0] in keys}
    assert len(kept) == 6


class TestKeysThatCollide:
    """Loaders take neighbours of one key for one sample."""

    @pytest.fixture
    def colliding(self, tmp_path):
        (tmp_path / "pool").mkdir()
        for name in ("a", "b.c"):
            members = [m for n in range(2) for m in pair(f"d/{n}", f"{name} {n}", seed=n)]
            members += pair(f"only-{name[0]}", "alone")
            write_tar(tmp_path / "pool" / f"{name}.tar", members, tarfile.PAX_FORMAT)
        return tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")

    def test_they_get_their_shards_name_and_the_map_says_so(self, colliding, tmp_path):
        summary = write_tar_folder(subset_of(colliding), tmp_path / "kept", EmitConfig())
        assert summary["renamed"] == 4
        path = tmp_path / "kept" / "00000000.tar"
        samples = list(wds.WebDataset(str(path), shardshuffle=False))
        found = {s["__key__"]: s["txt"].decode() for s in samples}
        assert found == {
            "d/a-0": "a 0",
            "d/a-1": "a 1",
            "only-a": "alone",
            "d/b_c-0": "b.c 0",
            "d/b_c-1": "b.c 1",
            "only-b": "alone",
        }
        assert [s["png"] for s in samples[:2]] == [png(0), png(1)]
        beside = pq.read_table(path.with_suffix(".parquet"))
        assert beside["key"].to_pylist() == [s["__key__"] for s in samples]
        renamed = pq.read_table(tmp_path / "kept" / "renamed.parquet").to_pylist()
        assert renamed[2] == {
            "shard": "b.c",
            "source_key": "d/0",
            "key": "d/b_c-0",
            "tar": "00000000.tar",
        }
        assert len(renamed) == 4

    def test_in_a_stream_too(self, colliding):
        out = io.BytesIO()
        write_tar_stream(subset_of(colliding), out)
        out.seek(0)
        with tarfile.open(fileobj=out) as tar:
            assert len(set(tar.getnames())) == len(tar.getnames()) == 12

    def test_a_subset_without_collisions_is_left_as_it_is(self, colliding, tmp_path):
        subset = subset_of(colliding, where="shard = 'a'")
        summary = write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        assert summary["renamed"] == 0
        assert not (tmp_path / "kept" / "renamed.parquet").exists()
        names = [name for name, _, _ in members(tmp_path / "kept" / "00000000.tar")]
        assert names[0] == "d/0.png"

    def test_one_shard_may_have_a_key_twice(self, tmp_path):
        (tmp_path / "pool").mkdir()
        twice = [*pair("k", "one"), *pair("x", "between", 1), *pair("k", "two", 2)]
        write_tar(tmp_path / "pool" / "a.tar", twice)
        scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
        write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig(shard_size=2))
        keys = [
            key
            for n in range(2)
            for key in pq.read_table(tmp_path / "kept" / f"{n:08d}.parquet")["key"].to_pylist()
        ]
        assert keys == ["a-k-0", "x", "a-k-2"]


class TestHowShardsAreCut:
    def test_by_bytes_with_large_samples_alone(self, scored, tmp_path):
        subset = subset_of(scored)
        sizes = rows_of(subset)["nbytes"].to_pylist()
        limit = 3 * max(sizes)
        write_tar_folder(subset, tmp_path / "kept", EmitConfig(max_bytes=limit))
        tables = [pq.read_table(path) for path in sorted((tmp_path / "kept").glob("*.parquet"))]
        held = [sum(table["nbytes"].to_pylist()) for table in tables]
        assert max(held) <= limit
        first = [table["nbytes"][0].as_py() for table in tables]
        assert all(a + b > limit for a, b in zip(held, first[1:], strict=False))
        assert sum(len(table) for table in tables) == 300
        write_tar_folder(subset, tmp_path / "tiny", EmitConfig(max_bytes=1))
        assert len(list((tmp_path / "tiny").glob("*.tar"))) == 300

    def test_shuffled_by_a_seed(self, scored, pool, tmp_path):
        subset = subset_of(scored, by="log_ratio", top=60)

        def emitted(name, seed):
            write_tar_folder(subset, tmp_path / name, EmitConfig(shard_size=25, shuffle_seed=seed))
            paths = sorted((tmp_path / name).glob("*.tar"))
            return [m for path in paths for m in members(path)]

        once, again, other = emitted("a", 1), emitted("b", 1), emitted("c", 2)
        assert once == again
        assert once != other
        straight = expected_members(subset, pool)
        assert once != straight
        assert sorted(once) == sorted(other) == sorted(straight)
        beside = pq.read_table(tmp_path / "a" / "00000000.parquet")["key"].to_pylist()
        assert beside == [name.removesuffix(".png") for name, _, _ in once[:75:3]]

    @pytest.mark.parametrize("writers", [1, 5])
    def test_the_number_of_writers_changes_nothing(self, scored, tmp_path, writers):
        subset = subset_of(scored, by="kl_text", top=100)
        write_tar_folder(subset, tmp_path / "a", EmitConfig(shard_size=7))
        write_tar_folder(subset, tmp_path / "b", EmitConfig(shard_size=7, writers=writers))
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestStopped:
    def test_a_run_goes_on_where_it_was(self, scored, tmp_path, monkeypatch):
        subset, config = subset_of(scored, by="kl_text", top=100), EmitConfig(shard_size=10)
        write_tar_folder(subset, tmp_path / "whole", config)
        written, write = [], emit._ShardWriter._write

        def dying(self, stem, table):
            if stem == "00000004":
                raise KeyboardInterrupt
            return write(self, stem, table)

        monkeypatch.setattr(emit._ShardWriter, "_write", dying)
        with pytest.raises(KeyboardInterrupt):
            write_tar_folder(subset, tmp_path / "kept", config)
        assert (tmp_path / "kept" / "unfinished.json").exists()
        assert not (tmp_path / "kept" / "summary.json").exists()
        left = {path.name for path in (tmp_path / "kept").glob("*.parquet")}
        (tmp_path / "kept" / ".unfinished-1-00000007.tar").write_bytes(b"half")

        def counted(self, stem, table):
            written.append(f"{stem}.parquet")
            return write(self, stem, table)

        monkeypatch.setattr(emit._ShardWriter, "_write", counted)
        write_tar_folder(subset, tmp_path / "kept", config)
        assert contents(tmp_path / "kept") == contents(tmp_path / "whole")
        assert left
        assert sorted([*left, *written]) == [f"{n:08d}.parquet" for n in range(10)]

    def test_a_finished_one_is_not_done_again(self, scored, tmp_path):
        subset = subset_of(scored, by="kl_text", top=20)
        first = write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
        again = subset_of(scored, where="true", by="kl_text", top=20)
        assert write_tar_folder(again, tmp_path / "kept", EmitConfig(writers=1)) == first
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == times

    def test_another_subset_is_refused(self, scored, tmp_path):
        write_tar_folder(subset_of(scored, by="kl_text", top=20), tmp_path / "kept", EmitConfig())
        for subset, config in (
            (subset_of(scored, by="kl_text", top=21), EmitConfig()),
            (subset_of(scored, by="kl_text", top=20), EmitConfig(shard_size=5)),
        ):
            with pytest.raises(OutputError, match="holds no part of this very subset"):
                write_tar_folder(subset, tmp_path / "kept", config)


class TestOutputsInAStore:
    @pytest.fixture
    def store(self):
        files = fsspec.filesystem("memory")
        yield files
        if files.exists("/kept"):
            files.rm("/kept", recursive=True)

    def content(self, store):
        return {
            path.rpartition("/")[2]: store.cat(path) for path in store.ls("/kept", detail=False)
        }

    def test_it_is_what_a_disk_gets(self, scored, tmp_path, store):
        subset, config = subset_of(scored, by="kl_text", top=50), EmitConfig(shard_size=20)
        summary = write_tar_folder(subset, "memory://kept", config)
        assert summary == write_tar_folder(subset, tmp_path / "kept", config)
        assert self.content(store) == contents(tmp_path / "kept")
        assert write_tar_folder(subset, "memory://kept", config) == summary
        other = subset_of(scored, by="kl_text", top=51)
        with pytest.raises(OutputError, match="memory://kept is not empty"):
            write_tar_folder(other, "memory://kept", config)
        store.pipe("/kept/notes.txt", b"mine")
        write_tar_folder(other, "memory://kept", EmitConfig(), overwrite=True)
        assert sorted(self.content(store)) == [
            "00000000.parquet",
            "00000000.tar",
            "00000000_stats.json",
            "notes.txt",
            "summary.json",
        ]

    def test_a_run_goes_on_where_it_was(self, scored, tmp_path, store, monkeypatch):
        subset, config = subset_of(scored), EmitConfig(shard_size=50, writers=1)
        put, sent = type(store).put_file, []

        def failing(self, local, remote, **options):
            sent.append(remote.rpartition("/")[2])
            if len(sent) > 8:
                raise PermissionError("no more")
            return put(self, local, remote, **options)

        monkeypatch.setattr(type(store), "put_file", failing)
        with pytest.raises(OutputError, match=r"cannot write memory://kept/.*: no more; give the"):
            write_tar_folder(subset, "memory://kept", config)
        monkeypatch.undo()
        assert "unfinished.json" in self.content(store)
        write_tar_folder(subset, "memory://kept", config)
        write_tar_folder(subset, tmp_path / "kept", config)
        assert self.content(store) == contents(tmp_path / "kept")

    @pytest.mark.parametrize("url", ["nosuch://kept", "https://127.0.0.1:9/kept"])
    def test_what_cannot_be_written_to_is_one_line(self, scored, url, monkeypatch):
        monkeypatch.setattr("clipdre.formats.files.remote.WAITS", ())
        with pytest.raises(ClipdreError, match=r"cannot (write|list)"):
            write_tar_folder(subset_of(scored), url, EmitConfig())


class TestSourcesOfOtherKinds:
    def test_gzip_is_read_through(self, pool, scored, tmp_path):
        (tmp_path / "pool").mkdir()
        for path in pool.glob("*.tar"):
            with gzip.open(tmp_path / "pool" / f"{path.name}.gz", "wb") as file:
                file.write(path.read_bytes())
        zipped = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
        assert zipped[1].rows == 300
        for shuffle in (None, 3):
            config = EmitConfig(shard_size=40, shuffle_seed=shuffle)
            for name, source in (("kept", scored), ("zipped", zipped)):
                subset = subset_of(source, by="log_ratio", top=100)
                write_tar_folder(subset, tmp_path / f"{name}{shuffle}", config)
            for path in (tmp_path / f"kept{shuffle}").glob("*.tar"):
                assert (
                    path.read_bytes()
                    == (path.parents[1] / f"zipped{shuffle}" / path.name).read_bytes()
                )

    def test_remote_tars_are_read_by_ranges(self, pool, scored, tmp_path, monkeypatch):
        files = fsspec.filesystem("memory")
        for path in pool.glob("*.tar"):
            files.pipe(f"/remote/{path.name}", path.read_bytes())
        urls = sorted(f"memory://remote/{path.name}" for path in pool.glob("*.tar"))
        remote = tmp_path / "s", score(urls, tmp_path / "s", TINY)
        asked = []
        cat_ranges = type(files).cat_ranges

        def counted(self, paths, starts, ends, **options):
            asked.extend(end - start for start, end in zip(starts, ends, strict=True))
            return cat_ranges(self, paths, starts, ends, **options)

        monkeypatch.setattr(type(files), "cat_ranges", counted)
        write_tar_folder(subset_of(remote, by="log_ratio", top=9), tmp_path / "a", EmitConfig())
        write_tar_folder(subset_of(scored, by="log_ratio", top=9), tmp_path / "b", EmitConfig())
        name = "00000000.tar"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert 0 < sum(asked) < sum(len(files.cat(url)) for url in urls)

    def test_shards_that_moved_are_found_by_name_and_size(self, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "old")
        scored = tmp_path / "s", tiny_score(tmp_path / "old", tmp_path / "s")
        (tmp_path / "old").rename(tmp_path / "new")
        subset = subset_of(scored, by="log_ratio", top=20)
        with pytest.raises(InputError, match="cannot find"):
            write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        assert not (tmp_path / "kept").exists()
        urls = sorted(str(path) for path in (tmp_path / "new").glob("*.tar"))
        write_tar_folder(relocated(subset.selection, urls), tmp_path / "kept", EmitConfig())
        found = members(tmp_path / "kept" / "00000000.tar")
        assert found == expected_members(subset, tmp_path / "new")


def test_a_stream_is_the_same_samples_in_one_tar(scored, pool):
    subset = subset_of(scored, by="similarity", top=25)
    out = io.BytesIO()
    write_tar_stream(subset, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        found = [(m.name, m.size, tar.extractfile(m).read()) for m in tar.getmembers()]
    assert found == expected_members(subset, pool)


def test_the_digest_names_the_subset(scored):
    first = subset_of(scored, by="log_ratio", top=10).summary()["digest"]
    assert subset_of(scored, where="true", by="log_ratio", top=10).summary()["digest"] == first
    assert subset_of(scored, by="log_ratio", top=11).summary()["digest"] != first


class TestRefusals:
    def test_an_output_that_holds_something(self, scored, tmp_path):
        subset = subset_of(scored, by="log_ratio", top=10)
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="is not empty"):
            write_tar_folder(subset, tmp_path, EmitConfig(shard_size=10))
        assert os.listdir(tmp_path) == ["thesis.tex"]
        with pytest.raises(OutputError, match="is a file"):
            write_tar_folder(subset, tmp_path / "thesis.tex", EmitConfig(shard_size=10))

    def test_overwrite_replaces_a_subset_and_nothing_else(self, scored, tmp_path):
        write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig(shard_size=50))
        (tmp_path / "kept" / "notes.txt").write_text("mine")
        subset = subset_of(scored, by="log_ratio", top=10)
        write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=50), overwrite=True)
        assert sorted(os.listdir(tmp_path / "kept")) == [
            "00000000.parquet",
            "00000000.tar",
            "00000000_stats.json",
            "notes.txt",
            "summary.json",
        ]

    def test_a_source_that_changed_leaves_no_tar_under_a_final_name(self, tmp_path):
        write_pool(tmp_path / "p", 40, seed=1, noise={}, shard_size=20)
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        write_tar(tmp_path / "p" / "00001.tar", [("a.png", png())])
        with pytest.raises(InputError, match=r"00001\.tar has changed since it was scored"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig(shard_size=100))
        assert not list((tmp_path / "kept").glob("*.tar"))
        assert not (tmp_path / "kept" / "summary.json").exists()

    def test_a_span_that_is_no_longer_the_key(self, tmp_path):
        """Size and time agree, the content does not."""
        write_pool(tmp_path / "p", 20, seed=1, noise={})
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        path = tmp_path / "p" / "00000.tar"
        stat, data = path.stat(), path.read_bytes()
        for name, other in (
            ("shifted", b"\0" * 512 + data[:-512]),
            ("renamed", data.replace(b"000000007.png", b"000000008.png")),
        ):
            path.write_bytes(other)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            with pytest.raises(
                InputError, match=r"00000\.tar has changed since it was scored: where"
            ):
                write_tar_folder(subset_of(scored), tmp_path / name, EmitConfig())
            assert not list((tmp_path / name).glob("*.tar"))

    def test_a_disk_that_is_full(self, scored, tmp_path, monkeypatch):
        def full(out, written):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(emit, "end_archive", full)
        with pytest.raises(OutputError, match="No space left on device"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
        assert [path.name for path in (tmp_path / "kept").iterdir()] == ["unfinished.json"]
        monkeypatch.undo()
        assert write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())["kept"] == 300

    def test_a_source_that_vanished(self, tmp_path):
        write_pool(tmp_path / "p", 10, seed=1, noise={})
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        (tmp_path / "p" / "00000.tar").unlink()
        with pytest.raises(InputError, match="cannot find"):
            write_tar_stream(subset_of(scored), io.BytesIO())
