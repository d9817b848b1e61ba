"""Encoding on several devices; two processes on the CPU stand for them."""

import dataclasses
import pickle

import pytest

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding.jobs import EncodeWork, workers_per_device
from clipdre.errors import ModelError
from tests.helpers import TINY, pair, read_failures, read_scores, tiny_score, write_tar


@pytest.fixture
def pool(tmp_path):
    (tmp_path / "pool").mkdir()
    for name in "abc":
        members = [m for n in range(6) for m in pair(f"{name}{n}", f"red {n}", seed=n)]
        write_tar(tmp_path / "pool" / f"{name}.tar", [*members, *pair(f"{name}x", " ")])
    return tmp_path / "pool"


def on(device):
    return dataclasses.replace(TINY, encode=dataclasses.replace(TINY.encode, device=device))


def test_two_devices_write_what_one_writes(pool, tmp_path):
    alone = tiny_score(pool, tmp_path / "one", on("cpu"))
    both = tiny_score(pool, tmp_path / "two", on("cpu,cpu"))
    assert [shard.samples for shard in both.shards] == [7, 7, 7]
    assert both.shards == alone.shards
    assert read_failures(tmp_path / "two", both) == read_failures(tmp_path / "one", alone)
    assert read_scores(tmp_path / "two", both).equals(read_scores(tmp_path / "one", alone))
    again = tiny_score(pool, tmp_path / "two", on("cpu"))  # no reason to encode again
    assert again.shards == both.shards
    assert again.reference == both.reference


def test_a_missing_device_is_refused_before_anything_is_written(pool, tmp_path):
    with pytest.raises(ModelError, match="`device` nosuch"):
        tiny_score(pool, tmp_path / "s", on("cpu,nosuch"))
    assert not (tmp_path / "s").exists()


def test_a_loaded_model_is_not_sent_to_other_processes():
    work = EncodeWork(ReadConfig(), EncodeConfig(), loaded=lambda: "cannot be pickled")
    assert pickle.loads(pickle.dumps(work)).loaded is None


@pytest.mark.parametrize(("workers", "devices", "each"), [(8, 2, 4), (5, 2, 2), (1, 4, 1)])
def test_decoding_threads_are_shared_among_devices(workers, devices, each):
    encode = EncodeConfig(workers=workers)
    assert workers_per_device(encode, ["cpu"] * devices).workers == each
