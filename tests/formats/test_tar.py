import io
import tarfile

import pytest

from clipdre.formats.tar import BrokenTarError, iter_members, split_name
from tests.conftest import write_tar


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
def test_split_name_is_webdatasets(name, key, suffix):
    assert split_name(name) == (key, suffix)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_spans_hold_whole_members_in_any_format(tmp_path, format):
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


def test_links_folders_and_devices_are_passed_over(tmp_path):
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
        assert [(m.key, m.read()) for m in iter_members(file)] == [("good", b"hi")]


MEMBERS = [("a.txt", b"a" * 700), ("b.txt", b"b" * 700), ("c.txt", b"c" * 700)]
WHOLE = 3 * (512 + 1024)


@pytest.mark.parametrize(
    ("cut", "read", "broken_at"),
    [
        (WHOLE, 3, None),  # no end blocks: everything is there
        (WHOLE + 512, 3, None),  # a lone zero block
        (2 * 1536 + 100, 2, 2 * 1536),  # within the third header
        (2 * 1536 + 512 + 300, 2, 2 * 1536),  # within the third content
        (0, 0, 0),  # nothing at all
    ],
)
def test_truncated_archives_say_where(tmp_path, cut, read, broken_at):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[:cut])
    assert members_and_break(path) == (read, broken_at)


@pytest.mark.parametrize("skip_reading", [True, False])
def test_a_member_cut_within_its_padding_is_broken(tmp_path, skip_reading):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[: WHOLE - 100])
    count, broken_at = members_and_break(path, read=not skip_reading)
    assert (count, broken_at) == (3, 2 * 1536)


def test_garbage_between_members_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    data = bytearray(path.read_bytes())
    data[1536 : 1536 + 512] = b"\x99" * 512
    path.write_bytes(data)
    assert members_and_break(path) == (1, 1536)


@pytest.mark.parametrize("content", [b"not a tar" * 200, b"\x1f\x8b" + b"x" * 600, b"PK" * 600])
def test_what_is_no_tar_is_broken_at_zero(tmp_path, content):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert members_and_break(path) == (0, 0)


def members_and_break(path, read=True):
    count = 0
    with path.open("rb") as file:
        try:
            for member in iter_members(file):
                if read:
                    member.read()
                count += 1
        except BrokenTarError as error:
            return count, error.offset
    return count, None
