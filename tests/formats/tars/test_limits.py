import numpy as np
import pytest
from PIL import Image

from clipdre.formats.tars.images import check_image, decode_image
from clipdre.formats.tars.limits import BYTES_PER_PIXEL, MAX_SCANS, ImageError
from clipdre.formats.tars.samples import Reason
from tests.corpus import image, jpeg_of_scans
from tests.helpers import peak_memory

SIDE = 3000
PIXELS = SIDE * SIDE


def blocks(mode):
    """An image that is quickly encoded, and has all colours and transparencies."""
    small = np.random.default_rng(0).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    large = Image.fromarray(small, "RGBA").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    if mode == "I;16":
        return Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257)
    return large.convert(mode)


TURNED = Image.Exif()
TURNED[0x0112] = 6
FAST = {"PNG": {"compress_level": 1}, "WEBP": {"method": 0}, "AVIF": {"speed": 10}}
DECODE = """
import io, sys
from PIL import Image
from clipdre.formats.tars.images import _opened, decode_image
from clipdre.formats.tars.limits import check_limits
data = open(sys.argv[1], "rb").read()
Image.init()
before = peak()
decode_image(data, max_pixels=2 * 10**7, max_aspect_ratio=9)
print(peak() - before, check_limits(_opened(data), data, 2 * 10**7, 9))
"""


@pytest.mark.parametrize(
    ("mode", "format", "options"),
    [
        ("RGB", "PNG", {"exif": TURNED}),
        ("RGBA", "PNG", {"exif": TURNED}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"exif": TURNED}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0, "exif": TURNED}),
        ("CMYK", "JPEG", {"progressive": True, "exif": TURNED}),
        ("RGB", "WEBP", {"exif": TURNED}),
        ("RGBA", "WEBP", {"exif": TURNED}),
        ("RGB", "AVIF", {"subsampling": "4:4:4"}),
        ("RGBA", "AVIF", {"subsampling": "4:4:4", "exif": TURNED}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
    ],
)
def test_decoding_takes_no_more_memory_than_the_header_says(tmp_path, mode, format, options):
    blocks(mode).save(tmp_path / "image", format, **FAST.get(format, {}), **options)
    used, expected = peak_memory(DECODE, tmp_path / "image")
    strip = 30_000_000
    assert used < expected * 1.1 + strip
    assert expected <= 18 * PIXELS


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from clipdre.formats.tars import images
images.DECODING = images.Budget(10**8)
data = open(sys.argv[1], "rb").read()
Image.init()
before = peak()
with ThreadPoolExecutor(6) as threads:
    limits = {"max_pixels": 10**7, "max_aspect_ratio": 9}
    list(threads.map(lambda _: images.decode_image(data, **limits).width, range(12)))
print(peak() - before)
"""


def test_threads_share_the_memory_for_decoding(tmp_path):
    """Six threads would take 430 MB, and malloc would keep most of it for each of them."""
    blocks("RGBA").save(tmp_path / "image", "PNG", compress_level=1)
    (used,) = peak_memory(THREADS, tmp_path / "image")
    assert 8 * PIXELS < used < 230_000_000


@pytest.mark.parametrize(
    ("format", "options", "depth"),
    [
        ("WEBP", {}, 16),
        ("AVIF", {}, 18),
        ("JPEG", {}, 8),
        ("JPEG", {"progressive": True}, 10),
        ("PNG", {}, 8),
    ],
)
def test_formats_that_take_more_memory_may_have_fewer_pixels(format, options, depth):
    data = image(format, size=(100, 90), **options)
    fitting = -(-100 * 90 * depth // BYTES_PER_PIXEL) if depth > BYTES_PER_PIXEL else 100 * 90
    for look in (check_image, decode_image):
        look(data, max_pixels=fitting, max_aspect_ratio=9)
        with pytest.raises(ImageError, match="above the limit of") as caught:
            look(data, max_pixels=fitting - 1, max_aspect_ratio=9)
        assert caught.value.reason is Reason.IMAGE_TOO_LARGE
        assert (f"takes {depth} bytes" in str(caught.value)) == (depth > BYTES_PER_PIXEL)


SCANS = jpeg_of_scans(2 * MAX_SCANS)
THUMBNAIL = b"\xff\xe5\x04\x02" + 512 * b"\xff\xda"


@pytest.mark.parametrize("look", [check_image, decode_image])
@pytest.mark.parametrize(
    "data", [SCANS, SCANS[:2] + THUMBNAIL + SCANS[2:], SCANS + 512 * b"\xff\xda"]
)
def test_scans_are_counted_before_they_are_read(look, data):
    """What is in segments, as thumbnails are, and behind the image does not count."""
    pixels = 64 * 48
    look(data, max_pixels=2 * pixels, max_aspect_ratio=9)
    message = f"{2 * MAX_SCANS} scans of 64 x 48 pixels, above the limit of {MAX_SCANS} scans of"
    with pytest.raises(ImageError, match=message) as caught:
        look(data, max_pixels=2 * pixels - 1, max_aspect_ratio=9)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_only_first_scans_without_all_components_have_others_behind_them():
    data = image("JPEG", size=(64, 48))
    start, pixels = data.index(b"\xff\xda"), 64 * 48
    one, rest = b"\xff\xda\0\x08\1\1\0\0\x3f\0", data[start + 14 : -2]
    check_image(data[:-2] + 40 * data[start:-2] + data[-2:], max_pixels=pixels, max_aspect_ratio=9)
    with pytest.raises(ImageError, match="40 scans of 64 x 48 pixels"):
        check_image(
            data[:start] + 40 * (one + rest) + data[-2:], max_pixels=pixels, max_aspect_ratio=9
        )
