import io
import json
import os
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipdre.config import SelectConfig
from clipdre.errors import InputError, OutputError
from clipdre.formats.query import ScoreQuery
from clipdre.formats.score_folder import ScoreFolder
from clipdre.stages.emit import (
    Subset,
    write_keys,
    write_parquet,
    write_tar_folder,
    write_tar_stream,
)
from clipdre.stages.select import select
from clipdre.truth.pool import write_pool
from tests.conftest import pair, png, tiny_score, write_tar

# webdataset leaves its tars to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def subset_of(scored, **rule):
    path, manifest = scored
    folder = ScoreFolder(path)
    selection = select(ScoreQuery(folder, manifest), manifest.rows, SelectConfig(**rule))
    return Subset(folder, manifest, selection)


def members(path):
    with tarfile.open(path) as tar:
        return [(m.name, m.size, tar.extractfile(m).read()) for m in tar.getmembers()]


def expected_members(subset, pool):
    by_name = {}
    for path in sorted(pool.glob("*.tar")):
        by_name |= {(path.stem, name): (name, size, data) for name, size, data in members(path)}
    return [
        by_name[shard, f"{key}.{suffix}"]
        for _, table in subset.tables()
        for shard, key in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        for suffix in ("png", "txt", "json")
    ]


def test_kept_samples_are_byte_identical_in_pool_order(scored, pool, tmp_path):
    subset = subset_of(scored, by="log_ratio", top=0.3)
    summary = write_tar_folder(subset, tmp_path / "kept", shard_size=40)
    names = sorted(os.listdir(tmp_path / "kept"))
    tars = [f"{n:08d}.tar" for n in range(3)]
    assert names == sorted([*tars, *(t.replace("tar", "parquet") for t in tars), "summary.json"])
    found = [m for name in tars for m in members(tmp_path / "kept" / name)]
    assert found == expected_members(subset, pool)
    assert [shard["samples"] for shard in summary["shards"]] == [40, 40, 10]
    assert summary == json.loads((tmp_path / "kept" / "summary.json").read_text())
    assert (summary["pool"], summary["asked"], summary["kept"]) == (300, 90, 90)
    assert summary["rule"] == {"where": None, "by": "log_ratio", "top": 0.3}


def test_webdataset_reads_what_the_scores_beside_say(scored, tmp_path):
    write_tar_folder(subset_of(scored, by="kl_text", top=70), tmp_path / "kept", shard_size=50)
    for n, size in enumerate((50, 20)):
        path = tmp_path / "kept" / f"{n:08d}.tar"
        table = pq.read_table(path.with_suffix(".parquet"))
        samples = list(wds.WebDataset(str(path), shardshuffle=False))
        assert len(samples) == size
        assert [s["__key__"] for s in samples] == table["key"].to_pylist()
        assert [s["txt"].decode() for s in samples] == table["caption"].to_pylist()


def test_open_clips_training_loader_reads_the_subset(scored, tmp_path):
    """The stages of open_clip's training data pipeline, as it builds them from webdataset."""
    write_tar_folder(subset_of(scored, by="kl_text", top=30), tmp_path / "kept", shard_size=50)
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
    write_tar_folder(subset, tmp_path / "kept", shard_size=10)
    keys = [key for _, table in subset.tables() for key in table["key"].to_pylist()]
    kept = {name: data for name, _, data in members(tmp_path / "kept" / "00000000.tar")}
    assert kept == {name: data for name, data in source if name.rpartition(".")[0] in keys}
    assert len(kept) == 6


def test_a_key_that_repeats_opens_the_next_tar(tmp_path):
    """Loaders take adjacent samples of one key for one sample."""
    (tmp_path / "pool").mkdir()
    for name in ("a", "b"):
        write_tar(
            tmp_path / "pool" / f"{name}.tar",
            [m for n in range(2) for m in pair(str(n), f"{name} {n}", seed=ord(name) + n)],
        )
    scored = tmp_path / "s", tiny_score(tmp_path / "pool", tmp_path / "s")
    summary = write_tar_folder(subset_of(scored), tmp_path / "kept", shard_size=10)
    assert [shard["samples"] for shard in summary["shards"]] == [2, 2]
    captions = [
        sample["txt"].decode()
        for n in range(2)
        for sample in wds.WebDataset(str(tmp_path / "kept" / f"{n:08d}.tar"), shardshuffle=False)
    ]
    assert captions == ["a 0", "a 1", "b 0", "b 1"]


def test_a_stream_is_the_same_samples_in_one_tar(scored, pool):
    subset = subset_of(scored, by="similarity", top=25)
    out = io.BytesIO()
    write_tar_stream(subset, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        found = [(m.name, m.size, tar.extractfile(m).read()) for m in tar.getmembers()]
    assert found == expected_members(subset, pool)


def test_keys_and_parquet_name_the_same_rows(scored):
    subset = subset_of(scored, where="similarity > 0.5")
    keys, parquet = io.BytesIO(), io.BytesIO()
    write_keys(subset, keys)
    write_parquet(subset, parquet)
    table = pq.read_table(io.BytesIO(parquet.getvalue()))
    named = [
        f"{s}/{k}"
        for s, k in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
    ]
    assert keys.getvalue().decode().splitlines() == named
    assert np.all(table["similarity"].to_numpy() > 0.5)
    assert len(table) == len(subset.selection)


def test_the_digest_names_the_subset(scored):
    first = subset_of(scored, by="log_ratio", top=10).summary()["digest"]
    assert subset_of(scored, where="true", by="log_ratio", top=10).summary()["digest"] == first
    assert subset_of(scored, by="log_ratio", top=11).summary()["digest"] != first


class TestRefusals:
    def test_an_output_that_holds_something(self, scored, tmp_path):
        subset = subset_of(scored, by="log_ratio", top=10)
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(OutputError, match="is not empty"):
            write_tar_folder(subset, tmp_path, shard_size=10)
        assert os.listdir(tmp_path) == ["thesis.tex"]
        with pytest.raises(OutputError, match="is a file"):
            write_tar_folder(subset, tmp_path / "thesis.tex", shard_size=10)

    def test_overwrite_replaces_a_subset_and_nothing_else(self, scored, tmp_path):
        write_tar_folder(subset_of(scored), tmp_path / "kept", shard_size=50)
        (tmp_path / "kept" / "notes.txt").write_text("mine")
        subset = subset_of(scored, by="log_ratio", top=10)
        write_tar_folder(subset, tmp_path / "kept", shard_size=50, overwrite=True)
        assert sorted(os.listdir(tmp_path / "kept")) == [
            "00000000.parquet",
            "00000000.tar",
            "notes.txt",
            "summary.json",
        ]

    def test_a_source_that_changed_leaves_no_tar_under_a_final_name(self, tmp_path):
        write_pool(tmp_path / "p", 40, seed=1, noise={}, shard_size=20)
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        write_tar(tmp_path / "p" / "00001.tar", [("a.png", png())])
        with pytest.raises(InputError, match=r"00001\.tar has changed since it was scored"):
            write_tar_folder(subset_of(scored), tmp_path / "kept", shard_size=100)
        assert not list((tmp_path / "kept").glob("*.tar"))
        assert not (tmp_path / "kept" / "summary.json").exists()

    def test_a_source_that_vanished(self, tmp_path):
        write_pool(tmp_path / "p", 10, seed=1, noise={})
        scored = tmp_path / "s", tiny_score(tmp_path / "p", tmp_path / "s")
        (tmp_path / "p" / "00000.tar").unlink()
        with pytest.raises(InputError, match="cannot find"):
            write_tar_stream(subset_of(scored), io.BytesIO())
