import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipdre.formats.tars.images import DECODERS, ORIENTATION, ImageError, decode_image
from clipdre.formats.tars.samples import Reason
from tests.helpers import png


def decode(data, max_pixels=10_000_000, max_aspect_ratio=200.0):
    return decode_image(data, max_pixels=max_pixels, max_aspect_ratio=max_aspect_ratio).image


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


RAMP = Image.fromarray(np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8))


@pytest.mark.parametrize("format", DECODERS)
def test_every_format_decodes_to_rgb(format):
    image = decode(encoded(RAMP, format))
    assert (image.mode, image.size) == ("RGB", (64, 48))
    error = np.abs(np.asarray(image).astype(int) - np.asarray(RAMP).astype(int))
    assert error.mean() < 12


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "YCbCr"]
)
def test_every_mode_decodes_to_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(RAMP.convert("L")).astype(np.uint16) * 257)
        data = encoded(image)
    elif mode in ("CMYK", "YCbCr"):
        data = encoded(RAMP.convert(mode), "JPEG")
    elif mode == "PA":
        data = encoded(RAMP.convert("P"), transparency=3)
    else:
        data = encoded(RAMP.convert(mode))
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    assert abs(np.asarray(image).mean() - np.asarray(RAMP).mean()) < 12


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(grey))))
    assert found[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("bits", [8, 9, 12, 15, 16])
def test_sixteen_bit_grey_is_scaled_by_the_bits_that_it_uses(bits):
    grey = np.array([[0, 1 << (bits - 1), (1 << bits) - 1]], dtype=np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(grey))))
    assert found[0, :, 0].tolist() == [0, 128, 255]


def deep_png(value, alpha=None):
    """A PNG of one pixel with 16-bit colours."""
    channels = [value] * 3 + ([] if alpha is None else [alpha])

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2 if alpha is None else 6, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(f">{len(channels)}H", *channels))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("alpha", [None, 0xFFFF])
def test_sixteen_bit_colours_that_use_the_low_bits_are_refused(alpha):
    with pytest.raises(ImageError, match="12 bits or fewer") as caught:
        decode(deep_png(0xFFF, alpha))
    assert caught.value.reason is Reason.UNREADABLE_IMAGE
    for value in (0, 0x1000, 0xFFFF):
        assert np.asarray(decode(deep_png(value, alpha)))[0, 0].tolist() == [value >> 8] * 3


@pytest.mark.parametrize(("alpha", "red"), [(0, 220), (128, 237), (255, 220)])
def test_alpha_of_a_bmp_that_is_zero_everywhere_is_ignored(alpha, red):
    pixels = bytes([30, 20, 220, alpha]) * 4 + bytes([30, 20, 220, min(alpha, 128)])
    size = struct.pack("<IiiHHIIiiII", 108, 5, 1, 1, 32, 3, len(pixels), 1, 1, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = (size + masks + b"BGRs").ljust(108, b"\0")
    start = b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122)
    assert np.asarray(decode(start + header + pixels))[0, 0, 0] == red


def test_transparency_is_composited_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode(encoded(clear))).min() == 255
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(np.asarray(decode(encoded(half)))[0, 0, 0]) - 127) <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0])
    assert np.asarray(decode(encoded(palette, transparency=0))).min() == 255


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = decode(encoded(RAMP, "JPEG", exif=exif))
    assert image.size == (48, 64)
    expected = np.asarray(RAMP.rotate(-90, expand=True)).astype(int)
    assert np.abs(np.asarray(image).astype(int) - expected).mean() < 12


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xe0 no jpeg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html></html>",
        png()[:60],
        png(size=(64, 64))[:-200],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    ],
)
def test_damaged_and_foreign_files_are_unreadable(data):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.reason is Reason.UNREADABLE_IMAGE


def test_other_decoders_are_never_tried():
    with pytest.raises(ImageError, match="cannot identify image file"):
        decode(encoded(RAMP, "ICO"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(RAMP, "TIFF"), "a TIFF image"),
        (encoded(RAMP, "TIFF", big_tiff=True), "a TIFF image"),
        (encoded(RAMP, "JPEG2000"), "a JPEG 2000 image"),
        (encoded(RAMP, "JPEG2000", no_jp2=True), "a JPEG 2000 image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"<?xml version='1.0'?>\n<!-- made by -->\n<svg xmlns='...'>", "an SVG image"),
        (b"\n<!DOCTYPE HTML>\n<title>404</title><svg>", "an HTML page"),
        (b"<html>", "an HTML page"),
    ],
)
def test_what_else_is_found_in_pools_is_named(data, name):
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert str(caught.value) == f"cannot identify image file: it is {name}"


def test_bombs_are_refused_before_decoding():
    data = encoded(Image.new("1", (20_000, 20_000)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError) as caught:
            decode(data)
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_extreme_aspect_ratios_are_refused():
    with pytest.raises(ImageError) as caught:
        decode(encoded(Image.new("1", (60_000, 1))))
    assert caught.value.reason is Reason.EXTREME_ASPECT_RATIO
    assert decode(encoded(Image.new("L", (1, 1)))).size == (1, 1)


def test_messages_are_reproducible():
    with pytest.raises(ImageError) as caught:
        decode_image(b"<html>", max_pixels=100, max_aspect_ratio=9)
    assert str(caught.value) == "cannot identify image file: it is an HTML page"
    with pytest.raises(ImageError) as caught:
        decode_image(b"junk", max_pixels=100, max_aspect_ratio=9)
    assert str(caught.value) == "cannot identify image file"


def photo(width, height, seed=0):
    """An image with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    octaves = [
        Image.fromarray(
            rng.integers(0, 256, (1 + height // 2**n, 1 + width // 2**n, 3), dtype=np.uint8)
        ).resize((width, height))
        for n in range(8)
    ]
    return Image.fromarray(np.mean(octaves, axis=0).astype(np.uint8))


@pytest.mark.parametrize("size", [(900, 450), (1400, 1100), (2000, 2000)])
def test_fast_decoding_stays_within_its_error_bound(size):
    data = encoded(photo(*size), "JPEG", quality=90)
    limits = {"max_pixels": 10**7, "max_aspect_ratio": 9}
    exact, fast = decode_image(data, **limits), decode_image(data, **limits, smallest=448)
    assert (fast.width, fast.height) == size == exact.image.size
    assert min(fast.image.size) >= min(448, *size)
    assert (fast.image.size != size) == (min(size) >= 2 * 448)
    scaled = [
        np.asarray(found.image.resize((224, 224), Image.Resampling.BICUBIC)).astype(float)
        for found in (exact, fast)
    ]
    assert np.sqrt(np.mean((scaled[0] - scaled[1]) ** 2)) < 0.01 * 255


def test_fast_decoding_reports_the_upright_size_of_rotated_images():
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    data = encoded(photo(1000, 999), "JPEG", exif=turned)
    found = decode_image(data, max_pixels=10**7, max_aspect_ratio=9, smallest=64)
    assert (found.width, found.height) == (999, 1000)
    assert found.image.size == (125, 125)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_converted_in_strips_are_what_they_are_as_a_whole(mode, monkeypatch):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(RAMP.convert("L")).astype(np.uint16) * 257)
    else:
        image = Image.effect_noise((64, 48), 90).convert("RGBA").convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(RAMP.convert("L"))
    options = {"transparency": 7} if mode == "P" else {}
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG", **options)
    whole = decode(data)
    for strip in (1, 64, 64 * 7):
        monkeypatch.setattr("clipdre.formats.tars.images.STRIP", strip)
        assert decode(data).tobytes() == whole.tobytes()


@pytest.mark.parametrize("orientation", range(1, 10))
def test_turns_are_those_of_pillow(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(RAMP, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = decode_image(data, max_pixels=10_000_000, max_aspect_ratio=200.0)
    assert (found.width, found.height) == upright.size
    assert found.image.tobytes() == upright.tobytes()
