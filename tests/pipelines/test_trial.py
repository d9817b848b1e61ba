import json
from dataclasses import replace

import numpy as np
import pytest

from clipdre.config import EstimateConfig, ReadConfig, ReferenceMethod
from clipdre.errors import InputError
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines import trial
from clipdre.pipelines.trial import Trial, try_out
from tests.helpers import TINY, all_files, pair, png, write_tar


def tried(pool, pairs=60, config=TINY):
    return try_out(expand_shards([str(pool)]), config, pairs)


def test_writes_nothing_and_estimates_the_pool(pool, scored, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = all_files(pool)
    found = tried(pool)
    assert all_files(pool) == before
    assert not list(tmp_path.iterdir())
    assert (found.rows, found.shards_tried, found.shards, found.failures) == (60, 3, 3, {})
    assert found.model == scored[1].model
    assert found.nbytes == sum(shard.nbytes for shard in scored[1].shards)
    assert found.pairs == pytest.approx(300, rel=0.1)
    actual = sum(map(len, all_files(scored[0]).values()))
    assert found.disk == pytest.approx(actual, rel=0.3)


def test_a_pool_that_is_read_in_full_is_counted(pool):
    assert tried(pool, 1000).pairs == 300


@pytest.mark.parametrize("shards", [1, 8, 20])
def test_samples_are_spread_over_shards(tmp_path, monkeypatch, shards):
    for n in range(shards):
        image = png(n, (99, 80))
        members = [m for k in range(9) for m in ((f"{k}.png", image), (f"{k}.txt", b"x"))]
        write_tar(tmp_path / f"{n:05d}.tar", members)
    read = []
    first = trial._first
    monkeypatch.setattr(trial, "_first", lambda url, *a: read.append(url) or first(url, *a))
    found = tried(tmp_path, 5)
    assert found.rows == 5
    assert found.shards_tried == len(read) == min(shards, 5)
    assert read[0].endswith("00000.tar")
    assert read[-1].endswith(f"{shards - 1:05d}.tar")
    assert found.pairs == pytest.approx(9 * shards, rel=0.1)
    assert tried(tmp_path, 99).shards_tried == min(shards, 8)


def test_bad_samples_are_counted_and_left_out_of_the_estimate(tmp_path):
    good = [m for n in range(6) for m in pair(f"g{n}", seed=n)]
    bad = [m for n in range(3) for m in ((f"x{n}.png", png(n)[:40]), (f"x{n}.txt", b"x"))]
    write_tar(tmp_path / "a.tar", [*good, *bad, ("y.png", png())])
    found = tried(tmp_path)
    assert found.rows == found.pairs == 6
    assert found.failures == {"unreadable_image": 3, "missing_caption": 1}


def test_what_is_stated_beside_shards_counts(tmp_path):
    write_tar(tmp_path / "a.tar", pair("a"))
    (tmp_path / "sizes.json").write_text(json.dumps({"a.tar": 50}))
    assert tried(tmp_path).pairs == 50


def test_no_usable_pair_is_an_error(tmp_path, pool):
    write_tar(tmp_path / "a.tar", [("a.png", png()), ("b.png", png())])
    with pytest.raises(
        InputError, match=r"no pair is usable of 2 that were tried: missing_caption"
    ):
        tried(tmp_path)
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with pytest.raises(InputError, match="usable of 0 that were tried"):
        tried(tmp_path)
    with pytest.raises(InputError):
        tried(pool, config=replace(TINY, read=ReadConfig(caption_suffix="nosuch")))


def test_a_sample_that_stops_its_thread_is_a_failure(pool, monkeypatch):
    def dying(sample, *_):
        raise MemoryError(sample.key)

    monkeypatch.setattr(trial, "decode", dying)
    with pytest.raises(InputError, match="worker_died"):
        tried(pool, 4)


def test_a_reference_without_a_pool_takes_less_room(pool, scored):
    dim = scored[1].model.embedding_dim
    sample = EstimateConfig(method=ReferenceMethod.SAMPLE)
    saved = EstimateConfig(saved="elsewhere")
    whole, *less = (
        tried(pool, 9, replace(TINY, estimate=e)).disk for e in (TINY.estimate, sample, saved)
    )
    np.testing.assert_allclose(whole - np.array(less), 300 * 4 * dim, rtol=0.15)


@pytest.mark.parametrize(
    ("device", "decoding", "encoding", "rate", "limit"),
    [
        ("cuda:0", 100.0, 400.0, 100.0, "decoding"),
        ("cuda:0", 400.0, 100.0, 100.0, "encoding"),
        ("cpu", 100.0, 400.0, 80.0, "decoding"),
    ],
)
def test_what_limits(scored, device, decoding, encoding, rate, limit):
    found = Trial(
        model=scored[1].model,
        devices=(device,),
        workers=2,
        shards=1,
        shards_tried=1,
        nbytes=1,
        rows=1,
        failures={},
        decoding=decoding,
        encoding=encoding,
        pairs=8000,
        disk=1,
    )
    assert (found.rate, found.limited_by, found.seconds) == (rate, limit, 8000 / rate)


def test_rates_are_those_of_the_clock(pool, monkeypatch):
    """Every reading of the clock is a second later."""
    clock = iter(range(1000))
    monkeypatch.setattr(trial.time, "monotonic", lambda: float(next(clock)))
    found = tried(pool, 40)
    assert (found.decoding, found.encoding) == (40.0, 40.0)
    assert found.seconds == pytest.approx(found.pairs / 20)


def test_several_devices_encode_side_by_side(pool, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(trial.time, "monotonic", lambda: float(next(clock)))
    two = replace(TINY, encode=replace(TINY.encode, device="cpu,cpu"))
    assert tried(pool, 40, two).encoding == 80.0
