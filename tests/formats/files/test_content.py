import os

import pytest

from clipdre.formats.files.content import PART_BYTES, PARTS, content_sample


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PARTS * PART_BYTES, 1_000_003])
def test_a_copy_has_the_same_sample_and_a_changed_file_has_not(tmp_path, size):
    data = os.urandom(size)
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.write_bytes(data)
    copy.write_bytes(data)
    sample = content_sample(str(first))
    assert sample == content_sample(f"file://{copy}")
    for at in {0, size // 2, size - 1} if size else ():
        copy.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert content_sample(str(copy)) != sample
    copy.write_bytes(data + b"x")
    assert content_sample(str(copy)) != sample


@pytest.mark.parametrize("url", ["s3://bucket/a.tar", "/nowhere/a.tar", "/dev/zero", "/"])
def test_what_cannot_be_read_here_has_none(url):
    assert content_sample(url) == ""
