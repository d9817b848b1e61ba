import io
import tarfile
from dataclasses import replace

import pytest

from clipdre.config import ReadConfig
from clipdre.formats.tars import locate as locate_module
from clipdre.formats.tars.locate import Located, locate
from clipdre.formats.tars.shards import iter_samples
from tests.helpers import pair, png, write_tar


def located(data, *wanted):
    return list(locate(io.BytesIO(data), set(wanted).__contains__))


@pytest.fixture
def data(tmp_path):
    members = [*pair("a", uid="1"), *pair("b"), *pair("c", uid="b"), *pair("a", uid="2")]
    return write_tar(tmp_path / "a.tar", members).read_bytes()


def test_samples_are_found_by_key_or_uid_in_order(data):
    def names(*wanted):
        return [(sample.key, sample.uid) for sample in located(data, *wanted)]

    assert names("a") == [("a", "1"), ("a", "2")]
    assert names("2", "1") == [("a", "1"), ("a", "2")]
    assert names("b") == [("b", None), ("c", "b")]
    assert names("z") == []


def test_spans_are_those_that_scoring_records(data):
    scored = list(iter_samples(io.BytesIO(data), ReadConfig()))
    expected = [Located(s.key, s.uid, s.offset, s.nbytes, s.image_span) for s in scored]
    assert located(data, "a", "b", "c") == expected
    assert len(expected) == 4


def test_captions_and_images_are_not_needed(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.json", b'{"uid": "7"}'), ("a.cls", b"1")])
    assert located(path.read_bytes(), "7") == [Located("a", "7", 0, 2048)]


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"uid": 7}', b"\xff"])
def test_damaged_json_leaves_the_key(tmp_path, content):
    path = write_tar(tmp_path / "a.tar", [*pair("a"), ("a.json", content)])
    assert [(s.key, s.uid) for s in located(path.read_bytes(), "a", "7")] == [("a", None)]


def test_large_json_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(locate_module, "MAX_JSON_BYTES", 20)
    members = [("a.json", b'{"uid": "1"}'), ("b.json", b'{"uid": "1", "title": "long"}')]
    path = write_tar(tmp_path / "a.tar", members)
    assert [sample.key for sample in located(path.read_bytes(), "1")] == ["a"]


def test_linked_json_is_not_read(tmp_path):
    link = tarfile.TarInfo("b.json")
    link.type, link.linkname = tarfile.LNKTYPE, "a.json"
    content = b'{"uid": "1"}'
    link.size = len(content)
    rest = write_tar(tmp_path / "a.tar", pair("c", uid="1")).read_bytes()
    data = link.tobuf() + content.ljust(512, b"\0") + rest
    assert [sample.key for sample in located(data, "1")] == ["c"]


def test_keys_that_are_not_utf8_match_the_score_table(tmp_path):
    members = [("b\udce9.png", png()), ("b\udce9.txt", b"x")]
    path = write_tar(tmp_path / "a.tar", members, tarfile.GNU_FORMAT)
    with path.open("rb") as file:
        (scored,) = iter_samples(file, ReadConfig())
    assert scored.key == "b\udce9"
    assert [sample.key for sample in located(path.read_bytes(), "b\\udce9")] == ["b\\udce9"]


def test_samples_before_the_end_of_a_broken_archive_are_found(data):
    whole = located(data, "a", "b", "c")
    for cut in (whole[2].offset + 100, whole[2].offset + 700):
        assert located(data[:cut], "a", "b", "c") == whole[:2]


def test_samples_around_garbage_are_found(data):
    first, *rest = located(data, "a", "b", "c")
    garbage = b"\x99" * 1024
    found = located(data[: first.nbytes] + garbage + data[first.nbytes :], "a", "b", "c")
    moved = [
        replace(
            s,
            offset=s.offset + len(garbage),
            image_span=(s.image_span[0] + len(garbage), s.image_span[1]),
        )
        for s in rest
    ]
    assert found == [first, *moved]


def test_samples_with_garbage_inside_are_not_found(data):
    first = located(data, "1")[0]
    header = data.index(b"a.txt", 0, first.nbytes)
    damaged = data[:header] + b"\x99" * 512 + data[header:]
    assert [(s.key, s.uid) for s in located(damaged, "a", "1")] == [("a", "2")]


def test_other_files_hold_no_samples():
    assert located(b"<html>not found</html>" * 100, "a") == []
    assert located(b"", "a") == []
