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
    "a global header": PASSED_OVER,
    "a global header within a sample": PASSED_OVER,
    "a global header at the end": PASSED_OVER,
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


def jpeg_of_scans(scans: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A progressive JPEG in which the last scan is repeated."""
    out = io.BytesIO()
    Image.new("L", size, 128).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


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


def extension(
    fields: dict[str, str | bytes], type: bytes = tarfile.XHDTYPE, name: str = "././@PaxHeader"
) -> bytes:
    """A PAX header that sets `fields`, with its content, whatever they are."""
    content = b""
    for field, value in fields.items():
        record = b" %s=%s\n" % (
            field.encode(),
            value if isinstance(value, bytes) else value.encode(),
        )
        length = len(record) + 1
        while len(b"%d" % length) + len(record) > length:
            length += 1
        content += b"%d%s" % (length, record)
    return special(name, type, size=len(content)).tobuf(USTAR) + padded(content)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


def raw(members: list[tuple[str, bytes]], format: int = USTAR) -> bytes:
    """The members as they are in a tar, without its end."""
    return b"".join(
        special(name, tarfile.REGTYPE, size=len(content)).tobuf(format) + padded(content)
        for name, content in members
    )


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


def _extensions() -> dict[str, tuple]:
    """Extension headers: PAX (of one member, global), GNU long names, sparse maps."""
    png, txt = raw([("b.png", PNG)]), raw([("b.txt", b"x")])
    good, garbage = ("b", GOOD), ("", "garbage")

    def between(data: bytes, *outcomes: Outcome) -> tuple:
        return TWO[:ONE_SPAN] + data + TWO[ONE_SPAN:], (BEFORE, *outcomes, AFTER)

    def fields(**values: str | bytes) -> tuple:
        """A sample whose caption has PAX fields, and is good."""
        return between(png + extension(values) + txt, good)

    def wrong(header: bytes) -> tuple:
        """A sample whose caption has headers that lose it."""
        return between(png + header + txt, garbage, ("b", "missing_caption"))

    def sparse(version: int, content: bytes = b"1\n0\n1\n", **map: str) -> tuple:
        fields = {"GNU.sparse.major": f"{version}", "GNU.sparse.minor": "0"}
        fields |= {f"GNU.sparse.{name}": value for name, value in map.items()}
        header = extension(fields | {"GNU.sparse.name": "b.txt", "GNU.sparse.realsize": "1"})
        member = raw([("GNUSparseFile.0/b.txt", padded(content))])
        return between(png + header + member, ("b", "not_a_file"))

    overall = {"type": tarfile.XGLTYPE, "name": "pax_global_header"}
    comment = extension({"comment": "f00d", "mtime": "1"}, **overall)
    rename = extension({"path": "b.txt"}, **overall)
    resize = extension({"size": "1"}, **overall)
    old_map = special("b.txt", tarfile.GNUTYPE_SPARSE).tobuf(GNU)
    old_map = old_map[:482] + b"\1" + old_map[483:]
    old_map = signed(old_map) + 3 * (b"\0" * 504 + b"\1" + b"\0" * 7) + b"\0" * 512
    link = (
        special("b.npy", tarfile.GNUTYPE_LONGLINK, size=300).tobuf(GNU) + b"l" * 300 + b"\0" * 212
    )
    return {
        "a global header": between(comment + png + txt, good),
        "a global header within a sample": between(png + comment + txt, good),
        "a global header at the end": (
            TWO[: 2 * ONE_SPAN] + comment + TWO[2 * ONE_SPAN :],
            (BEFORE, AFTER),
        ),
        "a global header that names a member": between(
            png + rename + txt, garbage, ("b", "garbage")
        ),
        "a global header that sets a size": between(resize + png + txt, garbage, good),
        "a global header that names all members": (rename + TWO, (garbage, BEFORE, AFTER)),
        "a global header behind a PAX header": wrong(extension({"comment": "x"}) + comment),
        "PAX numbers that are none": fields(mtime="nan", atime="x", uid="9" * 5000, gid="-1"),
        "PAX numbers that are negative": fields(mtime="-1e99", uid="-5"),
        "PAX size of zeros": fields(size="0001"),
        "PAX size of -512": wrong(extension({"size": "-512"})),
        "PAX size of -5": wrong(extension({"size": "-5"})),
        "PAX size of 10^30": wrong(extension({"size": "1" + "0" * 30})),
        "PAX size of 10^12": (
            TWO[:ONE_SPAN] + png + extension({"size": "1" + "0" * 12}) + txt + TWO[ONE_SPAN:],
            (BEFORE, ("b", "broken_tar")),
        ),
        "PAX size that is no number": wrong(extension({"size": "nan"})),
        "a PAX record without an end": wrong(extension({"comment": "x"}).replace(b"13 ", b"99 ")),
        "a PAX charset that is not UTF-8": wrong(extension({"hdrcharset": b"\xff"})),
        "a PAX header at the end": (
            TWO[: 2 * ONE_SPAN] + extension({"path": "b.txt"}) + b"\0" * 1024,
            (BEFORE, AFTER, ("", "broken_tar")),
        ),
        "a negative size in base 256": (
            _with_header(special("b.txt", tarfile.REGTYPE, size=-5)),
            (garbage, BEFORE, AFTER),
        ),
        "8 extension headers": between(png + 7 * extension({"path": "b.txt"}) + link + txt, good),
        "9 extension headers": wrong(9 * extension({"path": "b.txt"})),
        "3,000 extension headers": wrong(3000 * extension({"path": "b.txt"})),
        "sparse 0.0": sparse(0, size="1", numblocks="1", offset="0", numbytes="1"),
        "sparse 0.1": sparse(0, size="1", numblocks="1", map="0,1"),
        "sparse 1.0": sparse(1),
        "sparse 1.0 with a long map": sparse(1, b"99999999\n" + b"1\n" * 100_000),
        "sparse with a long old map": between(png + old_map, ("b", "not_a_file")),
        "a sparse file that nobody asked for": between(
            png + txt + extension({"GNU.sparse.map": "0,1"}) + raw([("b.npy", b"x")]),
            ("b", "not_a_file"),
        ),
    }


def signed(header: bytes) -> bytes:
    """A changed header with the checksum that it should have."""
    total = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    return header[:148] + b"%06o\0 " % total + header[156:]


def signed_blocks(data: bytes) -> bytes:
    """The archive with the checksums that its headers should have."""
    blocks = (data[at : at + 512] for at in range(0, len(data), 512))
    return b"".join(
        signed(block) if block[257:262] == b"ustar" and len(block) == 512 else block
        for block in blocks
    )


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
        "JPEG of 300 scans": picture(jpeg_of_scans(300, (3000, 2000)), "image_too_large", "jpg"),
        "small JPEG of 300 scans": picture(jpeg_of_scans(300), GOOD, "jpg"),
        "progressive JPEG": picture(image("JPEG", progressive=True), GOOD, "jpg"),
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


PARTS: tuple[Callable[[], dict[str, tuple]], ...] = (
    _structure,
    _extensions,
    _names,
    _captions,
    _images,
)
KINDS = [Kind(name, *made) for part in PARTS for name, made in part().items()]
