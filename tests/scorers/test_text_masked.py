import builtins
import io
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from clipdre.config import EncodeConfig
from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.tars.shards import iter_samples
from clipdre.models.load import load_encoder
from clipdre.scorers import text_masked
from clipdre.scorers.text_masked import Method, TextMasked, filled
from tests.helpers import pair, tiny_score, write_tar
from tests.scorers.measuring import measured, stored_vectors

FEW = 70  # more than are encoded together


@pytest.fixture
def few(tmp_path):
    """A score folder of a shard of its own, and the images in it."""
    (tmp_path / "pool").mkdir()
    members = [m for n in range(FEW) for m in pair(f"{n:03}", f"circle {n}", n)]
    tar = write_tar(tmp_path / "pool/00000.tar", members)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "scores")
    with tar.open("rb") as file:
        images = [
            Image.open(io.BytesIO(s.image)).convert("RGB")
            for s in iter_samples(file, manifest.reading)
        ]
    return tmp_path / "scores", tar, images


def naive(scores, images):
    """Image by image, against the stored vector of the caption."""
    encoder = load_encoder(EncodeConfig(model="clipdre-tiny", device="cpu"))
    texts = stored_vectors(scores, Modality.TEXT)
    vectors = [encoder.encode_images([encoder.preprocess(i)]).double().numpy()[0] for i in images]
    return np.array([v @ t for v, t in zip(vectors, texts, strict=True)])


def failures(scores):
    return pq.read_table(ScoreFolder(scores).columns / "text-masked/00000.parquet")


def test_the_mirrored_image_is_compared(few):
    scores, _, images = few
    found, record = measured(scores, TextMasked())
    mirrored = [Image.fromarray(np.array(image)[:, ::-1]) for image in images]
    np.testing.assert_allclose(found["similarity_text_masked"], naive(scores, mirrored), atol=1e-3)
    assert np.abs(found["similarity_text_masked"] - naive(scores, images)).max() > 1e-2
    assert [c.name for c in record.columns] == ["similarity_text_masked", "text_masked_failure"]
    assert set(found["text_masked_failure"]) == {""}


def test_a_bad_image_is_null_with_a_reason(few):
    scores, tar, _ = few
    expected, _ = measured(scores, TextMasked())
    before, data = tar.stat(), bytearray(tar.read_bytes())
    at = data.index(b"\x89PNG", 20_000)
    data[at : at + 64] = b"\0" * 64
    tar.write_bytes(data)
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))
    (ScoreFolder(scores).columns / "text-masked/00000.parquet").unlink()
    found, _ = measured(scores, TextMasked())
    (bad,) = np.flatnonzero(found["text_masked_failure"] != "")
    assert found["text_masked_failure"][bad] == "unreadable_image"
    assert failures(scores)["similarity_text_masked"].null_count == 1
    good = np.arange(FEW) != bad
    name = "similarity_text_masked"
    assert np.isnan(found[name][bad])
    np.testing.assert_allclose(found[name][good], expected[name][good], atol=1e-6)


def test_found_text_is_filled_and_other_images_stay_as_they_are(few, monkeypatch):
    scores, _, images = few
    boxes = [[(1, 1, 4, 3)], [], [(0, 0, 8, 6)], [(0, 0, 2, 2), (1, 1, 3, 3)]]
    numbers = {image.tobytes(): n for n, image in enumerate(images)}

    def detect(image):
        n = numbers[image.tobytes()]
        if n == 5:
            raise RuntimeError("odd shape")
        return boxes[n % 4]

    monkeypatch.setattr(text_masked, "_detector", lambda: detect)
    found, _ = measured(scores, TextMasked(method=Method.OCR))
    without = [filled(i, boxes[n % 4])[0] if boxes[n % 4] else i for n, i in enumerate(images)]
    expected = naive(scores, without)
    others = np.arange(FEW) != 5
    values = found["similarity_text_masked"]
    np.testing.assert_allclose(values[others], expected[others], atol=1e-3)
    assert np.isnan(values[5])
    assert np.isnan(found["text_area"][5])
    assert found["text_masked_failure"][5] == "text detection: RuntimeError"
    areas = [6 / 48, 0, 1, 7 / 48]
    assert found["text_area"][:4] == pytest.approx(areas)


def test_boxes_take_the_mean_colour_around_them():
    """Pixel by pixel, from the definition."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    boxes = [(5, 6, 12, 10), (11, 8, 30, 20)]
    found, area = filled(Image.fromarray(image), boxes)

    def inside(x, y, box, ring=0):
        left, top, right, bottom = box
        return left - ring <= x < right + ring and top - ring <= y < bottom + ring

    places = [(x, y) for y in range(20) for x in range(30)]
    text = [p for p in places if any(inside(*p, box) for box in boxes)]
    expected = image.astype(float)
    for box in boxes:
        near = [image[y, x] for x, y in places if inside(x, y, box, 3) and (x, y) not in text]
        for x, y in places:
            if inside(x, y, box):
                expected[y, x] = np.mean(near, axis=0).round()
    np.testing.assert_array_equal(np.array(found), expected.astype(np.uint8))
    assert area == len(text) / 600


def test_without_the_packages_their_installation_is_named(few, monkeypatch):
    importing = builtins.__import__

    def missing(name, *args, **kwargs):
        if name in ("rapidocr", "onnxruntime"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    text_masked._detector.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match="`method` ocr needs the packages rapidocr") as caught:
        measured(few[0], TextMasked(method=Method.OCR))
    assert "pip install 'clipdre[text]'" in caught.value.cure


def test_a_drawn_word_is_found():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("rapidocr")
    image = Image.new("RGB", (300, 200), (200, 220, 255))
    font = ImageFont.load_default(size=40)
    ImageDraw.Draw(image).text((40, 70), "HELLO", fill=(0, 0, 0), font=font)
    text_masked._detector.cache_clear()
    (box,) = text_masked._detector()(image)
    dark = np.argwhere(np.array(image).sum(axis=2) < 300)
    (top, left), (bottom, right) = dark.min(axis=0), dark.max(axis=0)
    assert box[0] <= left
    assert box[1] <= top
    assert box[2] > right
    assert box[3] > bottom
    assert text_masked._detector()(Image.new("RGB", (300, 200))) == []
