import errno
import json
import os
import re
import tarfile

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipdre.config import EmitConfig
from clipdre.emitting import tars
from clipdre.emitting.emit import write_tar_folder
from clipdre.errors import InputError, OutputError
from clipdre.truth.pool import write_pool
from tests.emitting.contents import contents, expected_members, members
from tests.helpers import pair, png, rows_of, subset_of, tiny_score, write_tar

# webdataset leaves its tars to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_copies_kept_samples_byte_for_byte_in_pool_order(scored, pool, tmp_path):
    subset = subset_of(scored, by="log_ratio", top=0.3)
    summary = write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=40))
    names = sorted(os.listdir(tmp_path / "kept"))
    stems = [f"{n:08d}" for n in range(3)]
    files = [f"{stem}{end}" for stem in stems for end in (".tar", ".parquet", "_stats.json")]
    assert names == sorted([*files, "sizes.json", "summary.json"])
    found = [m for stem in stems for m in members(tmp_path / "kept" / f"{stem}.tar")]
    assert found == expected_members(subset, pool)
    assert [shard["samples"] for shard in summary["shards"]] == [40, 40, 10]
    assert summary == json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert (summary["pool"], summary["steps"][0]["asked"], summary["kept"]) == (300, 90, 90)
    assert summary["rule"]["steps"][0]["by"] == "log_ratio"
    stats = [json.loads((tmp_path / "kept" / f"{stem}_stats.json").read_text()) for stem in stems]
    assert [stat["successes"] for stat in stats] == [40, 40, 10]


def test_webdataset_reads_samples_in_the_order_of_the_scores(scored, tmp_path):
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


def test_open_clips_training_pipeline_reads_the_subset(scored, tmp_path):
    """The stages of the pipeline are those that open_clip builds from webdataset."""
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
def test_keeps_long_names_in_any_tar_format(tmp_path, format):
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


class TestSharedKeys:
    """Loaders take neighbours with the same key for one sample, so keys must be unique."""

    def test_get_the_name_of_their_shard(self, colliding, tmp_path):
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
        scores = pq.read_table(path.with_suffix(".parquet"))
        assert scores["key"].to_pylist() == [s["__key__"] for s in samples]

    def test_are_listed_with_their_new_keys(self, colliding, tmp_path):
        write_tar_folder(subset_of(colliding), tmp_path / "kept", EmitConfig(shard_size=4))
        renamed = pq.read_table(tmp_path / "kept" / "renamed.parquet").to_pylist()
        assert [tuple(row.values()) for row in renamed] == [
            ("a", "d/0", "d/a-0", "00000000.tar"),
            ("a", "d/1", "d/a-1", "00000000.tar"),
            ("b.c", "d/0", "d/b_c-0", "00000000.tar"),
            ("b.c", "d/1", "d/b_c-1", "00000001.tar"),
        ]
        assert list(renamed[0]) == ["shard", "source_key", "key", "tar"]

    def test_stay_as_they_are_if_only_one_sample_is_kept(self, colliding, tmp_path):
        subset = subset_of(colliding, where="shard = 'a'")
        summary = write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        assert summary["renamed"] == 0
        assert not (tmp_path / "kept" / "renamed.parquet").exists()
        names = [name for name, _, _ in members(tmp_path / "kept" / "00000000.tar")]
        assert names[0] == "d/0.png"

    def test_get_their_row_within_one_shard(self, tmp_path):
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


class TestSizesAndOrder:
    def test_limits_bytes_per_shard_and_gives_large_samples_their_own(self, scored, tmp_path):
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

    def test_shuffles_by_seed(self, scored, pool, tmp_path):
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
        scores = pq.read_table(tmp_path / "a" / "00000000.parquet")["key"].to_pylist()
        assert scores == [name.removesuffix(".png") for name, _, _ in once[:75:3]]

    @pytest.mark.parametrize("writers", [1, 5])
    def test_number_of_writers_does_not_matter(self, scored, tmp_path, writers):
        subset = subset_of(scored, by="kl_text", top=100)
        write_tar_folder(subset, tmp_path / "a", EmitConfig(shard_size=7))
        write_tar_folder(subset, tmp_path / "b", EmitConfig(shard_size=7, writers=writers))
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


class TestOtherLoaders:
    def test_find_the_number_of_samples(self, scored, tmp_path):
        write_tar_folder(subset_of(scored, by="kl_text", top=50), tmp_path / "k", EmitConfig(20))
        sizes = json.loads((tmp_path / "k" / "sizes.json").read_text())
        assert sizes == {"00000000.tar": 20, "00000001.tar": 20, "00000002.tar": 10}

    def test_find_a_card_if_asked(self, scored, tmp_path):
        where = "caption != '```\n---\n'"
        subset = subset_of(scored, where=where, by="kl_text", top=50)
        write_tar_folder(subset, tmp_path / "without", EmitConfig())
        assert not (tmp_path / "without" / "README.md").exists()
        write_tar_folder(subset, tmp_path / "with", EmitConfig(card=True))
        text = (tmp_path / "with" / "README.md").read_text()
        _, front, body = text.split("---\n")
        assert front == 'configs:\n- config_name: default\n  data_files: "*.tar"\n'
        assert body.startswith("\n50 of 300 image-text pairs, selected with clipdre ")
        _, block, end = re.split("^```.*\n", body, flags=re.MULTILINE)
        assert json.loads(block)["rule"]["steps"][0]["where"] == where
        assert end == ""

    def test_a_card_of_the_user_stays(self, scored, tmp_path):
        config = EmitConfig(card=True)
        write_tar_folder(subset_of(scored, by="kl_text", top=5), tmp_path / "k", EmitConfig())
        (tmp_path / "k" / "README.md").write_text("mine")
        other = subset_of(scored, by="kl_text", top=6)
        with pytest.raises(OutputError, match=r"holds README\.md, which is not part of"):
            write_tar_folder(other, tmp_path / "k", config, overwrite=True)
        write_tar_folder(other, tmp_path / "k", EmitConfig(), overwrite=True)
        assert (tmp_path / "k" / "README.md").read_text() == "mine"

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
    def test_suffixes_of_images_are_in_the_summary(self, tmp_path, format):
        (tmp_path / "pool").mkdir()
        keys = {"a": "JPG", "b": "webp", "long/" * 30 + "c": "jpg"}
        members = [
            member
            for key, suffix in keys.items()
            for member in [(f"{key}.{suffix}", png()), (f"{key}.txt", b"a red circle")]
        ]
        write_tar(tmp_path / "pool" / "a.tar", members, format)
        scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
        summary = write_tar_folder(subset_of(scored), tmp_path / "k", EmitConfig(shard_size=2))
        assert summary["image_suffixes"] == ["jpg", "webp"]
        assert summary["kept"] == 3
        one = write_tar_folder(subset_of(scored, where="key = 'b'"), tmp_path / "b", EmitConfig())
        assert one["image_suffixes"] == ["webp"]


class TestRefusals:
    def test_refuses_an_output_that_holds_something_else(self, scored, tmp_path):
        subset = subset_of(scored, by="log_ratio", top=10)
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="is not empty and does not hold a subset"):
            write_tar_folder(subset, tmp_path, EmitConfig(shard_size=10))
        assert os.listdir(tmp_path) == ["thesis.tex"]
        with pytest.raises(OutputError, match=r"thesis\.tex"):
            write_tar_folder(subset, tmp_path / "thesis.tex", EmitConfig(shard_size=10))

    def test_overwrite_replaces_a_subset_only(self, scored, tmp_path):
        write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig(shard_size=50))
        (tmp_path / "kept" / "notes.txt").write_text("mine")
        subset = subset_of(scored, by="log_ratio", top=10)
        write_tar_folder(subset, tmp_path / "kept", EmitConfig(shard_size=50), overwrite=True)
        assert sorted(os.listdir(tmp_path / "kept")) == [
            "00000000.parquet",
            "00000000.tar",
            "00000000_stats.json",
            "notes.txt",
            "sizes.json",
            "summary.json",
        ]

    def test_a_source_that_changed_leaves_no_tar(self, tmp_path):
        write_pool(tmp_path / "p", 40, seed=1, noise={}, shard_size=20)
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        write_tar(tmp_path / "p" / "00001.tar", [("a.png", png())])
        with pytest.raises(InputError, match=r"00001\.tar"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig(shard_size=100))
        assert not list((tmp_path / "kept").glob("*.tar"))
        assert not (tmp_path / "kept" / "summary.json").exists()

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: b"\0" * 512 + data[:-512],
            lambda data: data.replace(b"000000007.png", b"000000008.png"),
        ],
    )
    def test_refuses_other_content_of_the_same_size_and_time(self, tmp_path, change):
        write_pool(tmp_path / "p", 20, seed=1, noise={})
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        path = tmp_path / "p" / "00000.tar"
        stat, data = path.stat(), path.read_bytes()
        path.write_bytes(change(data))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(InputError, match=r"00000\.tar"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
        assert not list((tmp_path / "kept").glob("*.tar"))

    def test_a_full_disk_is_one_line_and_the_run_resumes(self, scored, tmp_path, monkeypatch):
        def full(out, written):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(tars, "end_archive", full)
        with pytest.raises(OutputError, match="No space left on device"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())
        assert [path.name for path in (tmp_path / "kept").iterdir()] == ["unfinished.json"]
        monkeypatch.undo()
        assert write_tar_folder(subset_of(scored), tmp_path / "kept", EmitConfig())["kept"] == 300
