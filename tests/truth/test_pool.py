import json
from collections import Counter

import numpy as np
import pytest
import webdataset as wds

from clipdre.formats.tars.images import ImageError, decode_image
from clipdre.truth.pool import CLEAN, NOISE, UNINFORMATIVE, write_pool
from clipdre.truth.world import ATTRIBUTES, sample_pairs

# webdataset leaves closing its tars to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noisy")
    planted = write_pool(folder, 1000, seed=9, noise=NOISE, shard_size=300)
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    return folder, planted, list(wds.WebDataset(urls, shardshuffle=False))


def test_plants_each_kind_of_noise_in_its_proportion(written):
    _, planted, _ = written
    counts = Counter(planted.kind)
    assert all(counts[kind] == round(share * 1000) for kind, share in NOISE.items())
    assert counts[CLEAN] == 1000 - sum(counts[kind] for kind in NOISE)


def test_webdataset_reads_samples_in_the_reported_order(written):
    _, planted, samples = written
    assert [sample["__key__"] for sample in samples] == planted.key
    assert len(set(planted.key)) == 1000
    assert len({json.loads(sample["json"])["uid"] for sample in samples}) == 1000


def test_samples_of_each_kind_have_its_properties(written):
    _, planted, samples = written
    clean = {
        (sample["png"], sample["txt"])
        for sample, kind in zip(samples, planted.kind, strict=True)
        if kind == CLEAN
    }
    for n, (sample, kind) in enumerate(zip(samples, planted.kind, strict=True)):
        if kind == "undecodable":
            with pytest.raises(ImageError):
                decode_image(sample["png"], max_pixels=10**6, max_aspect_ratio=9)
            continue
        image = decode_image(sample["png"], max_pixels=10**6, max_aspect_ratio=9).image
        assert image.size == (64, 64)
        assert (image.getcolors(1) is not None) == (kind == "blank")
        assert (sample["txt"].decode() in UNINFORMATIVE) == (kind == "uninformative")
        if kind == "duplicate":
            assert (sample["png"], sample["txt"]) in clean
        known = not np.isnan(planted.truths["true_log_ratio"][n])
        assert known == (kind in (CLEAN, "duplicate"))


def test_mismatched_captions_contradict_their_images(written):
    _, planted, samples = written
    scenes = sample_pairs(1000, np.random.default_rng(9)).values  # as write_pool draws
    words = [word for attribute in ATTRIBUTES for word in attribute.values]
    checked = 0
    for sample, kind, scene in zip(samples, planted.kind, scenes, strict=True):
        if kind not in (CLEAN, "mismatched"):
            continue
        visible = {a.values[v] for a, v in zip(ATTRIBUTES, scene, strict=True)}
        mentioned = {word for word in words if word in sample["txt"].decode()}
        assert (mentioned <= visible) == (kind == CLEAN)
        checked += 1
    assert checked == 745  # 445 clean and 300 mismatched


def test_same_seed_writes_the_same_bytes(written, tmp_path):
    folder, _, _ = written
    write_pool(tmp_path, 1000, seed=9, noise=NOISE, shard_size=300)
    for path in sorted(folder.glob("*.tar")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
