"""All the ways in which a shard can be damaged or unusual, with the expected outcomes.

If possible, each case stands between two good samples, ``0`` before and ``z`` after it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

Outcome = tuple[str, str]
Members = list[tuple[str | tarfile.TarInfo, bytes]]
USTAR, GNU, PAX = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
GOOD = "good"
BEFORE, AFTER = ("0", GOOD), ("z", GOOD)
PASSED_OVER = {"passed_over"}
NOTES = {
    "no end blocks": {"no_end_marker"},
    "empty key": PASSED_OVER,
    "AppleDouble members": PASSED_OVER,
    "AppleDouble members in a folder": PASSED_OVER,
    "metadata of webdataset": PASSED_OVER,
}


@dataclass(frozen=True)
class Kind:
    """A shard, and (key, reason or ``good``) of each of its samples, in order.

    `notes` are the findings about the shard that are not about a sample.
    """

    name: str
    data: bytes
    outcomes: tuple[Outcome, ...]
    suffix: str = ".tar"

    @property
    def notes(self) -> set[str]:
        return NOTES.get(self.name, set())


def image(
    format: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: object
) -> bytes:
    """A random image."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format, **options)
    return out.getvalue()


PNG = image()


def archive(members: list[tuple[str | tarfile.TarInfo, bytes]], format: int = USTAR) -> bytes:
    """A tar of members, each given by name or with its header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg() and not isinstance(name, tarfile.TarInfo):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pair(
    key: str, caption: bytes = b"red circle", picture: bytes = PNG, suffix: str = "png"
) -> list:
    return [(f"{key}.{suffix}", picture), (f"{key}.txt", caption)]


def among(members: list, *outcomes: Outcome, format: int = USTAR) -> tuple[bytes, tuple]:
    """A tar of the members between two good samples, and the outcomes."""
    return archive([*pair("0"), *members, *pair("z")], format), (BEFORE, *outcomes, AFTER)


def apple_double(members: list) -> list:
    """The members as macOS packs them."""
    parts = [(".DS_Store", b"\0\0\0\1Bud1")]
    for name, content in members:
        folder, slash, base = name.rpartition("/")
        parts += [(f"{folder}{slash}._{base}", b"\0\5\x16\7" * 40), (name, content)]
    return parts


def special(name: str, type: bytes, **attributes: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = type
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


TWO = archive([*pair("0"), *pair("z")])
ONE_SPAN = 2 * 512 + -(-len(PNG) // 512) * 512 + 512


def _structure() -> dict[str, tuple]:
    """Damage to the archive itself."""
    ended = TWO[: 2 * ONE_SPAN]
    sparse = special("b.png", tarfile.GNUTYPE_SPARSE, size=0)
    return {
        "zero-length file": (b"", (("", "empty_file"),)),
        "not a tar": (b"<html>not found</html>" * 100, (("", "not_a_tar"),)),
        "a zip": (b"PK\x03\x04" + bytes(range(256)) * 8, (("", "not_a_tar"),)),
        "zeros alone": (b"\0" * 10240, ()),
        "one zero block": (b"\0" * 512, ()),
        "shorter than a block": (TWO[:300], (("", "not_a_tar"),)),
        "no end blocks": (ended, (BEFORE, AFTER)),
        "one end block": (ended + b"\0" * 512, (BEFORE, AFTER)),
        "truncated in a header": (TWO[: ONE_SPAN + 200], (BEFORE, ("", "broken_tar"))),
        "truncated in an image": (TWO[: ONE_SPAN + 600], (BEFORE, ("z", "broken_tar"))),
        "truncated in a caption": (TWO[: 2 * ONE_SPAN - 505], (BEFORE, ("z", "broken_tar"))),
        "truncated in padding": (TWO[: 2 * ONE_SPAN - 100], (BEFORE, ("z", "broken_tar"))),
        "garbage between samples": (
            TWO[:ONE_SPAN] + b"\x99" * 1024 + TWO[ONE_SPAN:],
            (("", "garbage"), BEFORE, AFTER),
        ),
        "garbage off the blocks": (
            TWO[:ONE_SPAN] + b"junk" * 33 + TWO[ONE_SPAN:],
            (("", "garbage"), BEFORE, AFTER),
        ),
        "garbage within a sample": (
            TWO[:ONE_SPAN]
            + archive(pair("b"))[: ONE_SPAN - 1024]
            + b"\x99" * 512
            + archive(pair("b"))[ONE_SPAN - 1024 : ONE_SPAN]
            + TWO[ONE_SPAN:],
            (("", "garbage"), BEFORE, ("b", "garbage"), AFTER),
        ),
        "garbage at the start": (b"\x99" * 512 + TWO, (("", "garbage"), BEFORE, AFTER)),
        "garbage at the end": (ended + b"\x99" * 5000, (BEFORE, AFTER, ("", "broken_tar"))),
        "a header with a bad checksum": (
            TWO[:148] + b"000000\0 " + TWO[156:],
            (("", "garbage"), ("0", "missing_image"), AFTER),
        ),
        "two archives end to end": (
            archive(pair("0")) + archive(pair("z")),
            (BEFORE, AFTER),
        ),
        "gzip": (gzip.compress(TWO), (BEFORE, AFTER), ".tar.gz"),
        "gzip named .tar": (gzip.compress(TWO), (BEFORE, AFTER)),
        "gzip cut short": (
            gzip.compress(TWO, 0)[: ONE_SPAN + 900],
            (BEFORE, ("z", "broken_tar")),
            ".tgz",
        ),
        "gzip with a flipped bit": (_flipped(gzip.compress(TWO, 0)), (("", "broken_tar"),), ".tgz"),
        "zstd": (pa.compress(TWO, "zstd", asbytes=True), (("", "compressed_tar"),)),
        "bzip2": (bz2.compress(TWO), (("", "compressed_tar"),)),
        "xz": (lzma.compress(TWO), (("", "compressed_tar"),)),
        "a symbolic link": among(
            [(special("b.png", tarfile.SYMTYPE, linkname="/etc/passwd"), b""), ("b.txt", b"x")],
            ("b", "not_a_file"),
        ),
        "a hard link": among(
            [(special("b.png", tarfile.LNKTYPE, linkname="0.png"), b""), ("b.txt", b"x")],
            ("b", "not_a_file"),
        ),
        "a sparse file": among([(sparse, b""), ("b.txt", b"x")], ("b", "not_a_file")),
        "a folder": among([(special("b/", tarfile.DIRTYPE), b""), *pair("b/c")], ("b/c", GOOD)),
        "a device": among(
            [(special("b.txt", tarfile.CHRTYPE), b""), ("b.png", PNG)], ("b", "not_a_file")
        ),
        "a fifo": among(
            [(special("b.txt", tarfile.FIFOTYPE), b""), ("b.png", PNG)], ("b", "not_a_file")
        ),
        "a negative size": (
            _with_header(special("b.txt", tarfile.REGTYPE, size=-4096)),
            (("", "garbage"), BEFORE, AFTER),
        ),
        "a huge extension header": (
            _with_header(special("b", tarfile.XHDTYPE, size=1 << 33)),
            (("", "garbage"), BEFORE, AFTER),
        ),
        "a size beyond the end": (
            _with_header(special("b.txt", tarfile.REGTYPE, size=1 << 40)),
            (BEFORE, ("b", "broken_tar")),
        ),
    }


def _with_header(info: tarfile.TarInfo) -> bytes:
    """Two samples with a lone header between them."""
    return TWO[:ONE_SPAN] + info.tobuf(GNU) + TWO[ONE_SPAN:]


def _flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 0xFF]) + data[41:]


def _names() -> dict[str, tuple]:
    """Keys and suffixes."""
    long = "n" * 180
    hostile = "../../../../tmp/b"
    latin = tarfile.TarInfo("b\udce9.png")
    latin.size = len(PNG)
    latin_txt = tarfile.TarInfo("b\udce9.txt")
    latin_txt.size = 1
    return {
        "PAX long names": among(pair(long), (long, GOOD), format=PAX),
        "GNU long names": among(pair(long), (long, GOOD), format=GNU),
        "PAX names in many scripts": among(pair("画像é🙂"), ("画像é🙂", GOOD), format=PAX),
        "names that are not UTF-8": (
            archive([*pair("0"), (latin, PNG), (latin_txt, b"x"), *pair("z")], GNU),
            (BEFORE, ("b\\udce9", GOOD), AFTER),
        ),
        "names with ..": among(pair(hostile), (hostile, GOOD)),
        "absolute names": among(pair("/etc/b"), ("/etc/b", GOOD)),
        "names with control characters": among(pair("b\x1b[31m\n"), ("b\x1b[31m\n", GOOD)),
        "dotted keys": among([("b.v1.png", PNG), ("b.v1.txt", b"x")], ("b", "missing_image")),
        "dots in folders": among(pair("v1.2/b"), ("v1.2/b", GOOD)),
        "upper-case suffixes": among([("b.PNG", PNG), ("b.TXT", b"x")], ("b", GOOD)),
        "no suffix": among([("b", b"x")], ("b", "missing_image")),
        "empty key": among([(".png", PNG), (".txt", b"x")]),
        "AppleDouble members": among(apple_double(pair("b")), ("b", GOOD)),
        "AppleDouble members in a folder": among(apple_double(pair("d/b")), ("d/b", GOOD)),
        "metadata of webdataset": among(
            [("__meta__", b"{}"), ("b.png", PNG), ("__b__/c.txt", b"y"), ("b.txt", b"x")],
            ("b", GOOD),
        ),
        "members not adjacent": among(
            [("a.png", PNG), ("b.png", PNG), ("a.txt", b"x"), ("b.txt", b"x")],
            ("a", "missing_caption"),
            ("b", "missing_caption"),
            ("a", "missing_image"),
            ("b", "missing_image"),
        ),
        "a key twice": among(
            [*pair("b"), *pair("c"), *pair("b")], ("b", GOOD), ("c", GOOD), ("b", GOOD)
        ),
        "foreign members": among(
            [*pair("b"), ("b.npy", b"\x93NUMPY"), ("b.pkl", b"\x80\x04.")], ("b", GOOD)
        ),
        "a readme": among([("README.md", b"hello")], ("README", "missing_image")),
    }


def _captions() -> dict[str, tuple]:
    """Captions and json."""

    def caption(text: bytes, outcome: str = GOOD) -> tuple:
        return among(pair("b", text), ("b", outcome))

    def json(content: bytes, outcome: str = GOOD) -> tuple:
        return among([*pair("b"), ("b.json", content)], ("b", outcome))

    return {
        "missing caption": among([("b.png", PNG)], ("b", "missing_caption")),
        "missing image": among([("b.txt", b"x")], ("b", "missing_image")),
        "two images": among([*pair("b"), ("b.jpg", PNG)], ("b", "duplicate_member")),
        "two captions": among([*pair("b"), ("b.txt", b"y")], ("b", "duplicate_member")),
        "empty caption": caption(b"", "empty_caption"),
        "blank caption": caption(b" \n\t\xc2\xa0", "empty_caption"),
        "caption of an entity": caption(b"&nbsp; &amp;nbsp;", "empty_caption"),
        "caption of a byte order mark": caption(b"\xef\xbb\xbf", "empty_caption"),
        "caption of NUL": caption(b"\0", "empty_caption"),
        "caption of a tokenizer's mark": caption(b"<end_of_text>", "empty_caption"),
        "caption without a space": caption(b"x" * 60_000),
        "caption of 10 MB": caption(b"x" * 10_000_000, "caption_too_large"),
        "caption that is not UTF-8": caption(b"caf\xe9", "invalid_caption"),
        "caption in UTF-16": caption("x".encode("utf-16"), "invalid_caption"),
        "caption with NUL": caption(b"red\0circle"),
        "caption from right to left": caption("\u202eelcric der \u05d0\u05d1".encode()),
        "caption with escapes": caption(b"\x1b]0;owned\x07\x1b[2J red"),
        "caption of markup and SQL": caption(b"<script>alert(1)</script>'; DROP TABLE x; --"),
        "json that is damaged": json(b"{not json"),
        "json that is a list": json(b"[1, 2]"),
        "json nested too deep": json(b"[" * 100_000),
        "json of 20 MB": json(b" " * 20_000_000, "member_too_large"),
        "json with a uid that is not text": json(b'{"uid": {"a": 1}}'),
    }


def _png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def _images() -> dict[str, tuple]:
    """Images."""

    def picture(data: bytes, outcome: str = GOOD, suffix: str = "png") -> tuple:
        return among(pair("b", picture=data, suffix=suffix), ("b", outcome))

    deep = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).save(deep, "PNG")
    animated = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    jpeg = image("JPEG")
    return {
        "truncated JPEG": picture(jpeg[: len(jpeg) // 2], "unreadable_image", "jpg"),
        "truncated PNG": picture(PNG[:-60], "unreadable_image"),
        "empty image": picture(b"", "unreadable_image"),
        "SVG named .jpg": picture(
            b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable_image", "jpg"
        ),
        "HTML named .jpg": picture(b"<html>404</html>", "unreadable_image", "jpg"),
        "TIFF named .jpg": picture(image("TIFF"), "unreadable_image", "jpg"),
        "EPS named .png": picture(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable_image"
        ),
        "PNG named .jpg": picture(PNG, GOOD, "jpg"),
        "CMYK JPEG": picture(image("JPEG", mode="CMYK"), GOOD, "jpg"),
        "grey JPEG": picture(image("JPEG", mode="L"), GOOD, "jpg"),
        "16-bit PNG": picture(deep.getvalue()),
        "palette PNG": picture(image(mode="P")),
        "1-bit PNG": picture(image(mode="1")),
        "transparent PNG": picture(image(mode="RGBA")),
        "animated GIF": picture(animated.getvalue(), GOOD, "gif"),
        "WebP": picture(image("WEBP"), GOOD, "webp"),
        "AVIF": picture(image("AVIF"), GOOD, "avif"),
        "truncated AVIF": picture(image("AVIF")[:-40], "unreadable_image", "avif"),
        "1 x 1": picture(image(size=(1, 1))),
        "60,000 x 1": picture(_png_of(60_000, 1), "extreme_aspect_ratio"),
        "decompression bomb": picture(_png_of(50_000, 50_000), "image_too_large"),
        "no pixels": picture(_png_of(0, 0), "unreadable_image"),
        "EXIF rotation": picture(image("JPEG", exif=turned), GOOD, "jpg"),
        "broken EXIF": picture(image("JPEG", exif=b"Exif\0\0junk"), GOOD, "jpg"),
        "broken ICC profile": picture(
            image("JPEG", icc_profile=b"not a profile" * 50), GOOD, "jpg"
        ),
    }


PARTS: tuple[Callable[[], dict[str, tuple]], ...] = (_structure, _names, _captions, _images)
KINDS = [Kind(name, *made) for part in PARTS for name, made in part().items()]
