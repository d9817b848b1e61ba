"""Property tests of shards, captions and tables with random content and damage."""

import io
import tarfile
from itertools import groupby

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdre.config import ReadConfig
from clipdre.formats.folders.tables import FAILURE_SCHEMA, MAX_MESSAGE, failures_table
from clipdre.formats.tars.samples import Failure, Note, Reason, Sample, Stage, printable
from clipdre.formats.tars.shards import iter_samples
from clipdre.formats.tars.spans import checked
from clipdre.formats.tars.tar import Gap, Member, iter_members, split_name
from tests.corpus import extension, signed_blocks
from tests.helpers import png

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=140)
suffixes = st.sampled_from(["png", "txt", "json", "PNG", "npy", "seg.png", ""])
contents = st.one_of(
    st.binary(max_size=1200), st.sampled_from([png(), b"", b'{"uid": "1"}', b"red"])
)
members = st.lists(st.tuples(names, suffixes, contents), max_size=8)
formats = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
fields = st.dictionaries(
    st.sampled_from(["path", "size", "mtime", "uid", "comment", "hdrcharset", "GNU.sparse.map"]),
    st.one_of(st.sampled_from(["k.txt", "0", "3", "-5", "1" + "0" * 30, "nan"]), st.text()),
    max_size=3,
)
extensions = st.builds(
    extension,
    fields.map(
        lambda given: {name: text.encode("utf-8", "replace") for name, text in given.items()}
    ),
    st.sampled_from([tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE]),
)


def archive(parts, format):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for key, suffix, content in parts:
            info = tarfile.TarInfo(f"{key}.{suffix}" if suffix else key)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@st.composite
def damaged(draw):
    """An archive with bytes flipped, cut off, dropped, inserted and repeated.

    It may have extension headers between its blocks, and its checksums may be right nevertheless.
    """
    data = bytearray(archive(draw(members), draw(formats)))
    for header in draw(st.lists(extensions, max_size=3)):
        at = draw(st.integers(0, len(data) // 512)) * 512
        data[at:at] = header
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "drop", "insert", "repeat"])):
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 2000))]
            case "insert":
                data[at:at] = draw(st.binary(max_size=700))
            case "repeat":
                data += data[at : at + 4096]
    return signed_blocks(bytes(data)) if draw(st.booleans()) else bytes(data)


def samples_of(data):
    found = iter_samples(io.BytesIO(data), ReadConfig())
    return [record for record in found if not isinstance(record, Note)]


def reads_back(record, data):
    span = data[record.offset : record.offset + record.nbytes]
    (again,) = samples_of(span)
    return (again.key, again.image, again.caption, again.uid) == (
        record.key,
        record.image,
        record.caption,
        record.uid,
    )


@settings(max_examples=300)
@given(damaged())
def test_samples_of_damaged_archives_are_complete_and_disjoint(data):
    end, kept, keys = 0, b"", []
    for record in samples_of(data):
        if isinstance(record, Sample):
            assert end <= record.offset
            end = record.offset + record.nbytes
            assert end <= len(data)
            assert reads_back(record, data)
            keys.append(printable(record.key))
            kept += checked(memoryview(data[record.offset : end]), keys[-1], "a")
        else:
            assert isinstance(record, Failure)
            assert record.message
    with tarfile.open(fileobj=io.BytesIO(kept + b"\0" * 1024), mode="r:") as tar:
        found = [printable(split_name(member.name)[0]) for member in tar]
    assert [key for key, _ in groupby(found)] == [key for key, _ in groupby(keys)]


@given(members, formats)
def test_intact_archives_give_every_member(parts, format):
    data = archive(parts, format)
    found = [m for m in iter_members(io.BytesIO(data)) if not isinstance(m, Gap)]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.size, tar.extractfile(m).read()) for m in tar.getmembers() if m.isreg()]
    assert [(m.size, m.read()) for m in found if isinstance(m, Member)] == expected


@given(st.text(), st.binary(max_size=60))
def test_captions_are_read_or_have_a_reason(text, raw):
    for caption in (text.encode("utf-8", "surrogatepass"), raw):
        parts = [("k", "png", png()), ("k", "txt", caption)]
        (record,) = samples_of(archive(parts, tarfile.PAX_FORMAT))
        if isinstance(record, Sample):
            assert record.caption == caption.decode()
            assert pa.array([record.caption]).to_pylist() == [record.caption]
        else:
            assert record.reason in (Reason.EMPTY_CAPTION, Reason.INVALID_CAPTION)


@given(st.lists(st.tuples(st.text(), st.integers(0, 2**62), st.text()), max_size=6))
def test_failures_fit_into_the_table(rows):
    failures = [Failure(k, at, Stage.READ, Reason.GARBAGE, text * 50) for k, at, text in rows]
    table = failures_table(failures)
    assert table.schema.equals(FAILURE_SCHEMA)
    assert table["key"].to_pylist() == [printable(key) for key, _, _ in rows]
    assert all(len(message) <= MAX_MESSAGE for message in table["message"].to_pylist())
