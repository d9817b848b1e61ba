"""Encoding as work; two processes on the CPU stand for two devices."""

import dataclasses
import pickle

import msgspec
import numpy as np
import pytest

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.core.modality import Modality
from clipdre.encoding import jobs
from clipdre.encoding.ingest import open_embeddings
from clipdre.encoding.jobs import EncodeWork, IngestWork, ShardJob, together, workers_per_device
from clipdre.engines.base import silent
from clipdre.errors import ModelError, OutputError
from clipdre.formats.files.content import content_sample
from clipdre.formats.folders.embeddings import EmbeddingFiles
from clipdre.formats.folders.records import ShardRecord
from tests.encoding.shards import encoded, shard_of
from tests.helpers import TINY, pair, read_failures, read_scores, tiny_score, write_tar


@pytest.fixture
def small_pool(tmp_path):
    (tmp_path / "pool").mkdir()
    for name in "abc":
        members = [m for n in range(6) for m in pair(f"{name}{n}", f"red {n}", seed=n)]
        write_tar(tmp_path / "pool" / f"{name}.tar", [*members, *pair(f"{name}x", " ")])
    return tmp_path / "pool"


@pytest.fixture
def job(tmp_path):
    members = [m for n in range(5) for m in pair(f"k{n}", f"red {n}", seed=n)]
    shard = shard_of(tmp_path / "a.tar", members)
    files = EmbeddingFiles(tmp_path / "embeddings", 0, 1)
    return ShardJob(shard, files, tmp_path / "failures.parquet", {"clipdre.encoded": "x"})


def on(device):
    return dataclasses.replace(TINY, encode=dataclasses.replace(TINY.encode, device=device))


def stamp_of(job):
    """What a finished job's files are stamped with."""
    return {"clipdre.encoded": "x", "clipdre.sample": content_sample(job.shard.url)}


def assert_written(job, images):
    """The files of a finished job: images, stamp, failures."""
    np.testing.assert_array_equal(np.load(job.files.array(Modality.IMAGE)), images)
    assert job.files.stamp() == stamp_of(job)
    assert job.failures.exists()


class TestEncodeWork:
    def test_writes_a_shard_and_returns_its_counts(self, job, encoder):
        reports = []
        work = EncodeWork(ReadConfig(), TINY.encode, encoder)
        do = work.start("cpu", lambda *report: reports.append(report))
        (record,) = do([job])
        assert (record.name, record.rows, record.failures) == ("a", 5, {})
        assert_written(job, encoded(job.shard, encoder).images)
        assert [sum(column) for column in zip(*reports, strict=True)] == [job.shard.nbytes, 5, 0]

    def test_loads_the_model_on_its_device_only_if_needed(self, job, encoder, monkeypatch):
        loaded = []
        monkeypatch.setattr(jobs, "load_encoder", lambda c: loaded.append(c.device) or encoder)
        EncodeWork(ReadConfig(), TINY.encode, encoder).start("cpu", silent)
        assert loaded == []
        EncodeWork(ReadConfig(), TINY.encode).start("cpu:7", silent)([job])
        assert loaded == ["cpu:7"]

    def test_a_loaded_model_is_not_sent_to_other_processes(self):
        work = EncodeWork(ReadConfig(), EncodeConfig(), loaded=lambda: "cannot be pickled")
        copy = pickle.loads(pickle.dumps(work))
        assert copy == EncodeWork(ReadConfig(), EncodeConfig())


def test_ingest_work_takes_embeddings_over(scored, tmp_path):
    folder, _ = scored
    source = open_embeddings(folder / "embeddings", "l14", 30.0, 0.0)
    url = source.files()[1]
    shard = ShardRecord(name="metadata_1", url=url, nbytes=77, modified="")
    files, reports = EmbeddingFiles(tmp_path / "embeddings", 0, 1), []
    job = ShardJob(shard, files, tmp_path / "failures.parquet", {"clipdre.encoded": "x"})
    (record,) = IngestWork(source).start("cpu", lambda *report: reports.append(report))([job])
    assert (record.rows, record.failures) == (100, {})
    assert reports == [(77, 100, 0)]
    before = np.load(folder / "embeddings" / "img_emb" / "img_emb_1.npy")
    after = np.load(files.array(Modality.IMAGE))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert_written(job, after)


def test_two_devices_write_what_one_writes(small_pool, tmp_path):
    alone = tiny_score(small_pool, tmp_path / "one", on("cpu"))
    both = tiny_score(small_pool, tmp_path / "two", on("cpu,cpu"))
    assert [shard.samples for shard in both.shards] == [7, 7, 7]
    assert both.shards == alone.shards
    assert read_failures(tmp_path / "two", both) == read_failures(tmp_path / "one", alone)
    assert read_scores(tmp_path / "two", both).equals(read_scores(tmp_path / "one", alone))
    again = tiny_score(small_pool, tmp_path / "two", on("cpu"))  # another device is the same run
    assert again.shards == both.shards
    assert again.reference == both.reference


def test_a_missing_device_is_refused_before_anything_is_written(small_pool, tmp_path):
    with pytest.raises(ModelError, match="`device` nosuch"):
        tiny_score(small_pool, tmp_path / "s", on("cpu,nosuch"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("workers", "devices", "each"), [(8, 2, 4), (5, 2, 2), (1, 4, 1)])
def test_devices_share_the_decoding_threads(workers, devices, each):
    encode = EncodeConfig(workers=workers)
    assert workers_per_device(encode, ["cpu"] * devices).workers == each


def test_small_neighbours_are_done_together(monkeypatch, job):
    monkeypatch.setattr(jobs, "TOGETHER", 10)
    sizes = (0, 3, 4, 3, 1, 11, 9, 1, 1)
    found = together(
        dataclasses.replace(job, shard=msgspec.structs.replace(job.shard, nbytes=size))
        for size in sizes
    )
    assert [[each.shard.nbytes for each in group] for group in found] == [
        [0, 3, 4, 3],
        [1],
        [11],
        [9, 1],
        [1],
    ]
    assert together([]) == []


def test_finished_shards_stay_if_a_later_one_cannot_be_written(job, encoder, tmp_path):
    (tmp_path / "taken").write_text("x")
    blocked = dataclasses.replace(job, failures=tmp_path / "taken" / "failures.parquet")
    do = EncodeWork(ReadConfig(), TINY.encode, encoder).start("cpu", silent)
    with pytest.raises(OutputError, match="cannot write"):
        do([job, blocked])
    assert job.files.stamp() == stamp_of(job)
