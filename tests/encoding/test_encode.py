import numpy as np
import pytest
import torch

from clipdre.config import EncodeConfig, ReadConfig
from clipdre.encoding import encode
from clipdre.errors import InputError, ModelError
from clipdre.formats.tars.images import decode_image
from clipdre.models.load import load_encoder
from tests.helpers import TINY, pair, read_failures, read_scores, tiny_score, write_tar


class Cramped:
    """An encoder on a device with room for a few images."""

    def __init__(self, room):
        self._encoder = load_encoder(TINY.encode)
        self.record, self.preprocess = self._encoder.record, self._encoder.preprocess
        self.encode_texts, self.tokenize = self._encoder.encode_texts, self._encoder.tokenize
        self.room, self.sizes = room, []

    def encode_images(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self._encoder.encode_images(pixels)


@pytest.fixture
def shard(tmp_path):
    members = [m for n in range(21) for m in pair(f"k{n:02d}", f"red {n}", seed=n)]
    path = write_tar(tmp_path / "a.tar", members)
    from clipdre.pipelines.score import _shard_record

    return _shard_record(str(path))


class Silent:
    def advance(self, *_):
        pass


def encoded(shard, encoder, batch_size=10):
    config = EncodeConfig(batch_size=batch_size, workers=1)
    return encode.encode_shard(shard, encoder, ReadConfig(), config, Silent())


def test_a_batch_that_does_not_fit_is_halved_and_said(shard):
    cramped = Cramped(room=3)
    with pytest.warns(UserWarning, match="going on with") as said:
        found = encoded(shard, cramped)
    assert cramped.sizes == [10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    assert len(said) == 2
    whole = encoded(shard, Cramped(room=100))
    np.testing.assert_allclose(found.images, whole.images, atol=1e-3)
    assert found.samples.equals(whole.samples)


def test_a_device_that_holds_not_one_pair_is_a_model_error(shard):
    with (
        pytest.warns(UserWarning, match="going on with"),
        pytest.raises(ModelError, match="one pair alone does not fit"),
    ):
        encoded(shard, Cramped(room=0))


def test_a_dying_worker_costs_its_shard_after_a_second_try(tmp_path, monkeypatch):
    (tmp_path / "pool").mkdir()
    for name in "ab":
        members = [m for n in range(5) for m in pair(f"{name}{n}", f"x {n}", seed=n)]
        write_tar(tmp_path / "pool" / f"{name}.tar", members)
    deadly, deaths = {"often": 2}, []

    def dying(data, **limits):
        image = decode_image(data, **limits)
        if deadly["often"] > len(deaths) and len(seen) < 5 * (len(deaths) + 1):
            seen.append(1)
            if len(seen) == 5 * (len(deaths) + 1) - 2:
                deaths.append(1)
                raise MemoryError("no room")
        return image

    seen: list[int] = []
    monkeypatch.setattr(encode, "decode_image", dying)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
    assert len(deaths) == 2
    assert [shard.rows for shard in manifest.shards] == [0, 5]
    (failure,) = read_failures(tmp_path / "s", manifest)
    assert failure["reason"] == "worker_died"
    assert "no room" in failure["message"]
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s")  # tried again by the next run
    assert [shard.rows for shard in manifest.shards] == [5, 5]
    assert len(read_scores(tmp_path / "s", manifest)) == 10


def test_a_rotten_pool_fails_the_run_that_would_not_bear_it(tmp_path):
    (tmp_path / "pool").mkdir()
    bad = [m for n in range(3) for m in ((f"b{n}.png", b"<html>"), (f"b{n}.txt", b"x"))]
    write_tar(tmp_path / "pool" / "a.tar", [*pair("x"), *pair("y"), *bad])
    with pytest.raises(InputError, match=r"3 of 5 samples failed \(60.0%\), more than --max-bad-f"):
        tiny_score(tmp_path / "pool", tmp_path / "s", max_bad_fraction=0.5)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "s", max_bad_fraction=0.6)
    assert manifest.rows == 2
