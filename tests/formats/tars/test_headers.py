import io
import tarfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipdre.formats.tars.headers import (
    BLOCK,
    MAX_EXTENSION,
    MAX_EXTENSIONS,
    plain_header,
    read_header,
)
from tests.corpus import extension, raw, signed, special

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(data, start=0):
    """Read the headers at the start of some bytes that lie at `start` in a file."""
    file = io.BytesIO(data)
    return read_header(file.read(BLOCK), start, file.read)


@pytest.mark.parametrize("format", FORMATS)
def test_common_headers_are_read_without_tarfile(format, monkeypatch):
    header = special("a/b.png", tarfile.REGTYPE, size=1234, mtime=10**9).tobuf(format)
    monkeypatch.delattr(tarfile.TarInfo, "frombuf")
    assert plain_header(header) == ("a/b.png", 1234)
    found = read(header, 4096)
    assert (found.start, found.data, found.end) == (4096, 4608, 4608 + 1536)
    assert not found.problem


BASE = special("a/b.png", tarfile.REGTYPE, size=1234).tobuf(tarfile.GNU_FORMAT)


@given(
    st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=9)), max_size=3),
    st.booleans(),
)
@example([(0, b"")], True)
@example([(345, b"prefix")], True)
@example([(148, b"000000\0 ")], False)
@example([(156, b"5")], True)
@example([(0, b"\xff" * 100), (157, b"\xff" * 9)], True)
def test_plain_headers_are_what_tarfile_reads(changes, sign):
    header = bytearray(BASE)
    for at, new in changes:
        header[at : at + len(new)] = new
    block = signed(bytes(header[:BLOCK])) if sign else bytes(header[:BLOCK])
    found = plain_header(block)
    if found is not None:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        assert (info.name, info.size, info.type) == (*found, tarfile.REGTYPE)


@pytest.mark.parametrize(
    "headers",
    [
        extension({"path": "one.txt"}) + extension({"path": "two.txt"}),
        extension({"comment": "x"}) + extension({"path": "two.txt"}),
        extension({"path": "one.txt", "size": "3"}) + extension({"size": "2"}),
        extension({"path": "folder/one.txt//"}),
        extension({"path": ""}),
        raw([("n" * 180 + ".txt", b"")], tarfile.GNU_FORMAT)[:-BLOCK] + extension({"path": "x"}),
        extension({"path": "x"}) + raw([("n" * 180 + ".txt", b"")], tarfile.GNU_FORMAT)[:-BLOCK],
        extension({"path": b"caf\xe9.txt"}),
        extension({"hdrcharset": "BINARY", "path": b"caf\xe9.txt"}),
        extension({"path": "x.txt"}, tarfile.SOLARIS_XHDTYPE),
    ],
)
def test_extension_headers_mean_what_they_mean_to_tarfile(headers):
    data = headers + raw([("own.txt", b"content")])
    found = read(data)
    with tarfile.open(fileobj=io.BytesIO(data + b"\0" * 1024)) as tar:
        (info,) = tar.getmembers()
        content = tar.extractfile(info).read()
    assert (found.name, found.size) == (info.name, info.size)
    assert data[found.data : found.data + found.size] == content
    assert (found.start, found.end, found.problem) == (0, len(data), "")


def test_a_member_ends_where_the_next_one_begins_whatever_is_wrong_with_its_headers():
    own = raw([("own.txt", b"x" * 700)])
    for header in (
        extension({"size": "-1"}),
        extension({"path": "x"}) * (MAX_EXTENSIONS + 1),
        extension({"comment": "x"}).replace(b"\n", b"\t"),
        extension({"comment": "x"}).replace(b"13 ", b"0_3"),
    ):
        found = read(header + own)
        assert found.problem
        assert found.end == len(header + own)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * BLOCK,
        BASE[:100],
        b"x" * BLOCK,
        extension({"comment": "x"}),
        extension({"comment": "x"}) + b"\0" * 1024,
        extension({"comment": "x"})[:700],
        extension({"comment": "x" * MAX_EXTENSION}) + BASE,
        special("b.txt", tarfile.REGTYPE, size=-5).tobuf(tarfile.GNU_FORMAT),
        special("b.txt", tarfile.REGTYPE, size=1 << 80).tobuf(tarfile.GNU_FORMAT),
    ],
)
def test_what_is_no_header_is_an_error_of_tarfile(data):
    with pytest.raises(tarfile.HeaderError):
        read(data)


def test_long_maps_of_sparse_files_are_not_kept(monkeypatch):
    def parsed(*_):
        raise AssertionError

    monkeypatch.setattr(tarfile.TarInfo, "_proc_member", parsed)
    fields = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.txt"}
    found = read(extension(fields) + raw([("x", b"99999999\n" + b"1\n" * 5000)]))
    assert (found.name, found.sparse, found.size) == ("b.txt", True, 10_009)
