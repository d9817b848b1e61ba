"""Several devices at once; two processes on the CPU stand for them."""

import dataclasses
import os
import signal

import pytest

from clipdre.config import ReadConfig
from clipdre.encoding.jobs import ShardJob, on_devices
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
    again = tiny_score(pool, tmp_path / "two", on("cpu"))  # no reason to encode anew
    assert again.shards == both.shards
    assert again.reference == both.reference


def test_a_device_that_is_not_there_is_one_line(pool, tmp_path):
    with pytest.raises(ModelError, match="--device nosuch cannot be used"):
        tiny_score(pool, tmp_path / "s", on("cpu,nosuch"))
    assert not (tmp_path / "s").exists()


class Deadly(ShardJob):
    def run(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)


class Unlucky(ShardJob):
    def run(self, *_):
        raise ModelError("one pair alone does not fit")


@pytest.mark.parametrize(
    ("kind", "message"), [(Deadly, "died, for lack of memory"), (Unlucky, "one pair alone")]
)
def test_a_process_that_dies_or_fails_is_a_model_error(kind, message):
    job = kind(0, None, None, None, {})
    with pytest.raises(ModelError, match=message):
        list(on_devices(["cpu", "cpu"], ReadConfig(), TINY.encode)([job], None))
