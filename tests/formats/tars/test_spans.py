import io
import os
import tarfile
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipdre.errors import InputError
from clipdre.formats.files.storage import identify
from clipdre.formats.tars.spans import (
    RECORD,
    Source,
    SpanReader,
    captioned,
    checked,
    coalesced,
    contents,
    end_archive,
    gap_within,
    renamed,
)
from tests.corpus import extension, padded, raw, special
from tests.helpers import pair, png, write_tar


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=20))
def test_coalesced_spans_cover_the_same_bytes_and_do_not_touch(gaps_and_sizes):
    spans, position = [], 0
    for gap, size in gaps_and_sizes:
        spans.append((position + gap, size))
        position += gap + size
    joined = list(coalesced(spans))
    covered = [byte for offset, size in spans for byte in range(offset, offset + size)]
    assert [byte for offset, size in joined for byte in range(offset, offset + size)] == covered
    ends = [offset + size for offset, size in joined]
    assert all(end < start for end, (start, _) in zip(ends, joined[1:], strict=False))


@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=20))
def test_small_gaps_are_read_through(gap, gaps_and_sizes):
    data, spans, position = bytes(range(256)) * 2, [], 0
    for before, size in gaps_and_sizes:
        spans.append((position + before, size))
        position += before + size
    asked = []

    def ranges(runs):
        asked.extend(runs)
        return [data[offset : offset + nbytes] for offset, nbytes in runs]

    found = [bytes(view) for view in SpanReader("x", 1000, ranges, gap).read(spans)]
    assert found == [data[offset : offset + size] for offset, size in spans]
    assert all(b[0] - (a[0] + a[1]) > gap for a, b in pairwise(asked))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=20),
    st.sampled_from([0.0, 0.1, 0.5, 2.0]),
)
def test_a_gap_adds_at_most_its_share_and_is_the_largest_that_does(gaps_and_sizes, share):
    spans, position = [], 0
    for before, size in gaps_and_sizes:
        spans.append((position + before, size))
        position += before + size
    kept = sum(size for _, size in spans)

    def added(gap):
        return sum(nbytes for _, nbytes in coalesced(spans, gap)) - kept

    gap = gap_within(spans, share)
    assert added(gap) <= share * kept
    wider = {added(more) for more in range(gap, 11)} - {added(gap)}
    assert all(bytes_added > share * kept for bytes_added in wider)


def test_contents_are_the_regular_files_of_a_sample():
    link = special("d/a.txt", tarfile.SYMTYPE).tobuf()
    data = raw([("d/a.JPG", b"1"), ("d/a.seg.png", b""), ("d/._a.png", b"no")]) + link
    assert contents(memoryview(data), "d/a", "x") == {"jpg": b"1", "seg.png": b""}
    with pytest.raises(InputError, match="where 'b' was, there is 'd/a'"):
        contents(memoryview(data), "b", "x")


def test_source_that_ends_early_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    with (
        pytest.raises(InputError, match=r"a\.tar ends before byte 120"),
        Source(str(tmp_path / "a.tar"), 100, None).opened() as source,
    ):
        list(source.read([(90, 30)]))


def sample_of(tmp_path, key, format, suffixes=("png", "txt")):
    path = write_tar(
        tmp_path / "a.tar", [(f"{key}.{s}", s.encode() * 300) for s in suffixes], format
    )
    with tarfile.open(path) as tar:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in tar.getmembers())
    return memoryview(path.read_bytes()[:end])


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("key", ["k", "dir/k", "é" * 30, "x" * 90 + "/" + "y" * 60])
class TestHeaders:
    def test_span_of_another_key_is_refused(self, tmp_path, format, key):
        span = sample_of(tmp_path, key, format)
        assert checked(span, key, "a.tar") is span
        with pytest.raises(InputError, match=r"a\.tar has changed .* where 'other' was"):
            checked(span, "other", "a.tar")
        with pytest.raises(InputError, match="there is no tar header: score it again"):
            checked(span[512:1024], key, "a.tar")

    @pytest.mark.parametrize("new", ["n", "a/b-c", "ü" * 120])
    def test_renamed_sample_has_the_same_contents(self, tmp_path, format, key, new):
        data = renamed(sample_of(tmp_path, key, format, ("png", "seg.TXT")), new, "a.tar")
        assert len(data) % 512 == 0
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        assert found == {f"{new}.png": b"png" * 300, f"{new}.seg.TXT": b"seg.TXT" * 300}
        assert checked(memoryview(data), new, "a.tar") is not None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("hidden", ["._k.txt", "d/._k.txt", "__meta__", "." + "x" * 120])
def test_members_that_are_passed_over_are_left_out(tmp_path, format, hidden):
    if format == tarfile.USTAR_FORMAT:
        hidden = hidden[:90]
    parts = [("k.png", b"png" * 300), (hidden, b"x" * 700), ("k.txt", b"red")]
    data = write_tar(tmp_path / "a.tar", parts, format).read_bytes()
    span = memoryview(data.rstrip(b"\0").ljust(-(-len(data.rstrip(b"\0")) // 512) * 512, b"\0"))
    for found in (checked(span, "k", "a.tar"), renamed(checked(span, "k", "a.tar"), "n", "a.tar")):
        with tarfile.open(fileobj=io.BytesIO(found)) as tar:
            names = tar.getnames()
            contents = [tar.extractfile(name).read() for name in names]
        assert [name[1:] for name in names] == [".png", ".txt"]
        assert contents == [b"png" * 300, b"red"]


def test_renamed_members_keep_no_extension_header():
    """Their fields may be anything: readers ignore most, but nobody could write them again."""
    wild = {"mtime": "nan", "uid": "9" * 5000, "gid": "-1", "path": "k.png", "size": "3"}
    odd = special("k.bin", b"Z", size=700).tobuf() + padded(b"z" * 700)
    span = memoryview(extension(wild) + raw([("x", b"png")]) + odd + raw([("k.txt", b"red")]))
    data = renamed(checked(span, "k", "a.tar"), "n", "a.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["n.png", "n.bin", "n.txt"]
        assert [tar.extractfile(name).read() for name in ("n.png", "n.txt")] == [b"png", b"red"]
    assert b"PaxHeader" not in data


@pytest.mark.parametrize("blocks", [0, 1, 17, 18, 19, 20])
def test_ended_archive_has_full_records_and_reads_back(blocks):
    out = io.BytesIO()
    if blocks:
        info = tarfile.TarInfo("a")
        info.size = (blocks - 1) * 512
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + b"x" * info.size)
    end_archive(out, blocks * 512)
    assert len(out.getvalue()) % RECORD == 0
    assert len(out.getvalue()) >= (blocks + 2) * 512
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        assert len(tar.getmembers()) == bool(blocks)


def test_changed_source_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 100)
    identity = identify(str(path))
    source = Source(str(path), identity.nbytes, identity.modified)
    with source.opened() as file:
        assert [bytes(view) for view in file.read([(0, 1)])] == [b"x"]
    os.utime(path, ns=(5, 5))
    with pytest.raises(InputError, match=r"a\.tar has changed .*another time"), source.opened():
        pass
    path.write_bytes(b"x" * 99)
    with pytest.raises(InputError, match="100 bytes then, 99 now"), source.opened():
        pass
    moved = Source(str(path), 99, None)  # only its size is known
    with moved.opened() as file:
        assert [bytes(view) for view in file.read([(98, 1)])] == [b"x"]


class TestCaptioned:
    def members(self, data):
        with tarfile.open(fileobj=io.BytesIO(bytes(data) + bytes(1024))) as tar:
            return [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]

    def span(self, tmp_path, members, **options):
        return memoryview(write_tar(tmp_path / "a.tar", members, **options).read_bytes())

    @pytest.mark.parametrize("old", ["txt", "TXT", "cap", None])
    def test_the_caption_is_the_only_txt(self, tmp_path, old):
        members = [
            ("d/b.png", png()),
            *([(f"d/b.{old}", b"old")] if old else []),
            ("d/b.cls", b"1"),
        ]
        found = captioned(self.span(tmp_path, members), "née <b>\n")
        kept = [m for m in members if not m[0].lower().endswith("txt")]
        assert self.members(found) == [*kept, ("d/b.txt", "née <b>\n".encode())]

    def test_the_same_caption_changes_nothing(self, tmp_path):
        span = self.span(tmp_path, pair("a", "red"))
        assert captioned(span, "red") is span
        assert captioned(span, "blue") is not span

    def test_long_names_and_captions_are_whole(self, tmp_path):
        key = "k" * 180
        members = [(f"{key}.png", png())]
        span = self.span(tmp_path, members, format=tarfile.PAX_FORMAT)
        found = captioned(span, "x" * 5000)
        assert self.members(found) == [*members, (f"{key}.txt", b"x" * 5000)]


def test_a_span_may_be_read_several_times(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*pair("a"), *pair("b")])
    data = path.read_bytes()
    half = 2 * 512 + -(-len(png()) // 512) * 512 + 512
    spans = [(0, half), (0, half), (half, half)]
    source = Source(str(path), len(data), None)
    with source.opened() as reader:
        found = [bytes(span) for span in reader.read(spans)]
        assert found == [data[:half], data[:half], data[half : 2 * half]]
        with pytest.raises(InputError, match="do not say where"):
            list(reader.read([(half, half), (0, half)]))
