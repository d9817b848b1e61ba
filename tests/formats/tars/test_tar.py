import gzip
import io
import tarfile
import time

import pytest

from clipdre.formats.tars.tar import BrokenTarError, Member, NoEnd, iter_members, split_name
from tests.helpers import write_tar


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("a.jpg", "a", "jpg"),
        ("folder/a.JPG", "folder/a", "jpg"),
        ("v1.2/a.txt", "v1.2/a", "txt"),
        ("a.seg.png", "a", "seg.png"),
        ("a", "a", ""),
        ("../../etc/passwd.txt", "../../etc/passwd", "txt"),
    ],
)
def test_names_are_split_as_webdataset_does(name, key, suffix):
    assert split_name(name) == (key, suffix)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_spans_hold_complete_members_in_any_format(tmp_path, format):
    long = "" if format == tarfile.USTAR_FORMAT else "x" * 180
    members = [(f"{long}ключ{n}.txt", bytes([n]) * (500 * n)) for n in range(5)]
    path = write_tar(tmp_path / "a.tar", members, format)
    data = path.read_bytes()
    with path.open("rb") as file:
        for (name, content), member in zip(members, iter_members(file), strict=True):
            assert f"{member.key}.{member.suffix}" == name
            assert member.read() == content
            with tarfile.open(fileobj=io.BytesIO(data[member.offset : member.end])) as alone:
                (info,) = alone.getmembers()
                assert info.name == name
                assert alone.extractfile(info).read() == content


def test_folders_are_skipped_and_special_files_labelled(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("trap.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("good.txt")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"hi"))
    with path.open("rb") as file:
        found = [(m.key, m.odd) for m in iter_members(file)]
    odd = ["a symbolic link", "a hard link", "a special file", ""]
    assert found == list(zip(["trap", "trap", "trap", "good"], odd, strict=True))


MEMBERS = [("a.txt", b"a" * 700), ("b.txt", b"b" * 700), ("c.txt", b"c" * 700)]
WHOLE = 3 * (512 + 1024)


@pytest.mark.parametrize(
    ("cut", "read", "broken_at"),
    [
        (WHOLE, 3, None),  # without end blocks: complete
        (WHOLE + 512, 3, None),  # a single zero block
        (2 * 1536 + 100, 2, 2 * 1536),  # within the third header
        (2 * 1536 + 512 + 300, 2, 2 * 1536),  # within the third content
        (0, 0, 0),  # empty
    ],
)
def test_truncated_archives_report_the_broken_member(tmp_path, cut, read, broken_at):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[:cut])
    assert members_and_break(path) == (read, broken_at)


@pytest.mark.parametrize(("cut", "ends"), [(WHOLE, False), (WHOLE + 512, True), (None, True)])
@pytest.mark.parametrize("archives", [1, 2])
@pytest.mark.parametrize("opener", [open, gzip.open])
def test_archive_without_a_zero_block_may_be_cut_off(tmp_path, cut, ends, archives, opener):
    whole = write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    with opener(tmp_path / "b.tar", "wb") as file:
        file.write(whole * (archives - 1) + whole[:cut])
    with opener(tmp_path / "b.tar", "rb") as file:
        *members, last = iter_members(file)
        assert all(isinstance(member, Member) for member in members)
        assert isinstance(last, Member) == ends
        assert ends or last == NoEnd((archives - 1) * len(whole) + WHOLE)


@pytest.mark.parametrize(
    ("name", "passed_over"),
    [
        ("._a.jpg", True),
        (".DS_Store", True),
        ("folder/._a.jpg", True),
        ("folder/.jpg", True),
        ("__meta__", True),
        ("__meta__/a.json", True),
        ("__a.b__", True),
        ("__meta__.json", False),
        ("folder/__meta__", False),
        (".folder/a.jpg", False),
        ("a.jpg", False),
    ],
)
def test_names_are_passed_over_as_webdataset_does(tmp_path, name, passed_over):
    with write_tar(tmp_path / "a.tar", [(name, b"x")]).open("rb") as file:
        (member,) = iter_members(file)
    assert (member.name, member.passed_over) == (name, passed_over)


@pytest.mark.parametrize("skip_reading", [True, False])
def test_member_cut_within_its_padding_is_broken(tmp_path, skip_reading):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[: WHOLE - 100])
    count, broken_at = members_and_break(path, read=not skip_reading)
    assert (count, broken_at) == (3, 2 * 1536)


def test_garbage_between_members_is_a_gap(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    data = bytearray(path.read_bytes())
    data[1536 : 1536 + 512] = b"\x99" * 512
    path.write_bytes(data)
    with path.open("rb") as file:
        first, gap, last = iter_members(file)
        assert (gap.offset, gap.end) == (1536, 3072)
        assert [m.read()[:1] for m in (first, last)] == [b"a", b"c"]
    path.write_bytes(bytes(data)[:1537] + b"off by some" + bytes(data)[1537:])
    with path.open("rb") as file:
        assert [type(m).__name__ for m in iter_members(file)] == ["Member", "Gap", "Member"]


def test_concatenated_archives_are_read_to_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    path.write_bytes(path.read_bytes() * 3)
    assert members_and_break(path) == (9, None)


@pytest.mark.parametrize("searched", [512, 700, 1 << 20])
def test_headers_are_found_across_chunk_borders(tmp_path, monkeypatch, searched):
    monkeypatch.setattr("clipdre.formats.tars.tar.SEARCHED", searched)
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    data = path.read_bytes()
    for length in (1, 255, 511, 512, 700, 1500):
        path.write_bytes(data[:1536] + b"ustar" * (length // 5) + b"x" * (length % 5) + data[1536:])
        with path.open("rb") as file:
            kinds = [type(m).__name__ for m in iter_members(file)]
        assert kinds == ["Member", "Gap", "Member", "Member"], length


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"size": -5000}, id="negative size"),
        pytest.param({"size": 1 << 40}, id="size beyond the end"),
        pytest.param({"size": 1 << 40, "type": tarfile.XHDTYPE}, id="huge extension header"),
        pytest.param({"size": -1, "type": tarfile.GNUTYPE_LONGNAME}, id="negative long name"),
        pytest.param({"pax_headers": {"size": "-99999"}}, id="negative PAX size"),
    ],
)
def test_hostile_headers_end_quickly(tmp_path, header):
    info = tarfile.TarInfo("b.txt")
    for name, value in header.items():
        setattr(info, name, value)
    kind = tarfile.PAX_FORMAT if "pax_headers" in header else tarfile.GNU_FORMAT
    whole = write_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    path = tmp_path / "b.tar"
    path.write_bytes(whole[:1536] + info.tobuf(kind) + whole[1536:])
    started = time.monotonic()
    count, _ = members_and_break(path, read=False)
    assert 1 <= count <= 4
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"not a tar" * 200, b"\x1f\x8b" + b"x" * 600, b"PK" * 600])
def test_other_files_are_broken_at_zero(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert members_and_break(path) == (0, 0)


def members_and_break(path, read=True):
    """Number of members and gaps, and where the archive is broken."""
    count = 0
    with path.open("rb") as file:
        try:
            for member in iter_members(file):
                if read and isinstance(member, Member):
                    member.read()
                count += not isinstance(member, NoEnd)
        except BrokenTarError as error:
            return count, error.offset
    return count, None
