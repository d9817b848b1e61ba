import gzip
import io
import random

import pytest

from clipdre.formats.files.gunzip import KEPT, Gunzipped


@pytest.fixture(scope="module")
def content():
    return random.Random(0).randbytes(3 * KEPT)


def test_reads_as_gzip_does(content):
    ours, theirs = (
        kind(io.BytesIO(gzip.compress(content, 1))) for kind in (Gunzipped, opened_by_gzip)
    )
    dice = random.Random(1)
    for _ in range(60):
        place, size = dice.randrange(len(content) + 99), dice.choice([0, 1, 512, KEPT, -1])
        if dice.random() < 0.5:
            assert ours.seek(place) == theirs.seek(place)
        assert ours.read(size) == theirs.read(size)
        assert ours.tell() == theirs.tell()


def opened_by_gzip(file):
    return gzip.GzipFile(fileobj=file, mode="rb")


def test_goes_back_without_decompressing_again(content, monkeypatch):
    file = Gunzipped(io.BytesIO(gzip.compress(content, 1)))
    file.seek(KEPT)
    monkeypatch.setattr(gzip.GzipFile, "rewind", lambda self: pytest.fail("it was rewound"))
    for n in range(50):
        at = KEPT + 512 * n
        file.seek(at)
        assert file.read(1 << 20) == content[at : at + (1 << 20)]


def test_closes_both_files():
    compressed = io.BytesIO(gzip.compress(b"a"))
    with Gunzipped(compressed) as file:
        assert file.read() == b"a"
    assert compressed.closed
