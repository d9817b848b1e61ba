import io
import tarfile

import pytest

from clipdre.formats.tars.groups import Group, iter_groups
from clipdre.formats.tars.samples import Failure, Note, NoteKind, Reason
from tests.helpers import pair, write_tar

MEMBERS = [("a.txt", b"1"), ("a.json", b"2"), ("b.txt", b"3"), ("a.txt", b"4")]
SIZE = 1024  # a header and a block of content


def groups(data):
    def keep(group, member):
        group.content[member.suffix] = member.read()

    return list(iter_groups(io.BytesIO(data), keep))


def archive(tmp_path, members=MEMBERS):
    return write_tar(tmp_path / "a.tar", members).read_bytes()


def test_adjacent_members_with_one_key_form_a_group(tmp_path):
    assert groups(archive(tmp_path)) == [
        Group("a", 0, 2 * SIZE, {"txt": b"1", "json": b"2"}),
        Group("b", 2 * SIZE, 3 * SIZE, {"txt": b"3"}),
        Group("a", 3 * SIZE, 4 * SIZE, {"txt": b"4"}),
    ]


def test_spans_are_those_that_tarfile_finds(tmp_path):
    data = archive(tmp_path, [*pair("a"), *pair("b", uid="1"), *pair("c")])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
    starts = {key: min(i.offset for i in infos if i.name.startswith(key)) for key in "abc"}
    found = groups(data)
    assert {group.key: group.offset for group in found} == starts
    assert [group.end for group in found[:2]] == [starts["b"], starts["c"]]


def test_garbage_within_a_group_fails_it(tmp_path):
    data = archive(tmp_path)
    garbage, first, *rest = groups(data[:SIZE] + b"\x99" * 512 + data[SIZE:])
    assert isinstance(garbage, Failure)
    assert (garbage.reason, garbage.offset) == (Reason.GARBAGE, SIZE)
    assert garbage.message.endswith("512 bytes lost")
    assert (first.key, first.failure[0]) == ("a", Reason.GARBAGE)
    assert [(group.key, group.failure) for group in rest] == [("b", None), ("a", None)]


def test_members_that_are_passed_over_separate_nothing(tmp_path):
    hidden = [("._a.txt", b"x"), ("__meta__", b"x"), ("d/._a.json", b"x")]
    members = [hidden[0], MEMBERS[0], *hidden, *MEMBERS[1:3], hidden[0]]
    found = groups(archive(tmp_path, members))
    assert [(item.key, item.content) for item in found if isinstance(item, Group)] == [
        ("a", {"txt": b"1", "json": b"2"}),
        ("b", {"txt": b"3"}),
    ]
    notes = [item for item in found if isinstance(item, Note)]
    assert {note.kind for note in notes} == {NoteKind.PASSED_OVER}
    assert [note.offset // SIZE for note in notes] == [0, 2, 3, 4, 7]


def test_archive_without_an_end_is_noted(tmp_path):
    cut = archive(tmp_path)[: 3 * SIZE]
    notes = [item for item in groups(cut) if isinstance(item, Note)]
    assert [(note.kind, note.offset) for note in notes] == [(NoteKind.NO_END_MARKER, 3 * SIZE)]
    assert not any(isinstance(item, Note) for item in groups(cut + b"\0" * 512))


def test_garbage_between_groups_fails_neither(tmp_path):
    data = archive(tmp_path)
    found = groups(data[: 2 * SIZE] + b"\x99" * 512 + data[2 * SIZE :])
    assert [type(item) for item in found] == [Failure, Group, Group, Group]
    assert all(group.failure is None for group in found[1:])


@pytest.mark.parametrize(("cut", "key"), [(3 * SIZE - 200, "b"), (2 * SIZE + 200, "")])
def test_archive_that_ends_in_a_group_loses_only_that_group(tmp_path, cut, key):
    first, failure = groups(archive(tmp_path)[:cut])
    assert (first.key, first.failure) == ("a", None)
    assert (failure.key, failure.reason, failure.offset) == (key, Reason.BROKEN_TAR, 2 * SIZE)


def test_first_failure_of_a_group_is_kept():
    group = Group("a", 0)
    group.fail(Reason.NOT_A_FILE, "first")
    group.fail(Reason.GARBAGE, "second")
    assert group.failure == (Reason.NOT_A_FILE, "first")
