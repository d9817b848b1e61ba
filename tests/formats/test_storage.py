import os

import fsspec
import pytest

from clipdre.errors import InputError
from clipdre.formats.storage import committed, identify, open_source, remove_unfinished


def test_a_committed_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with committed(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failed_commit_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with committed(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_leftovers_of_a_killed_run_go(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".unfinished-1-a.npy").write_text("half")
    (tmp_path / "sub" / "b.npy").write_text("whole")
    remove_unfinished(tmp_path)
    assert os.listdir(tmp_path / "sub") == ["b.npy"]


def test_identity_changes_with_the_file(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"1234")
    first = identify(str(path))
    assert first.nbytes == 4
    os.utime(path, ns=(1, 1))
    assert identify(str(path)) != first


def test_remote_sources_go_through_fsspec():
    with fsspec.open("memory://pool/a.tar", "wb") as file:
        file.write(b"tar")
    with open_source("memory://pool/a.tar") as file:
        assert file.read() == b"tar"
    assert identify("memory://pool/a.tar").nbytes == 3


@pytest.mark.parametrize("url", ["/nowhere/a.tar", "memory://nowhere/a.tar", "nosuch://a/b.tar"])
def test_missing_sources_are_input_errors(url):
    with pytest.raises(InputError, match=r"cannot open"):
        open_source(url)
    with pytest.raises(InputError, match=r"cannot find"):
        identify(url)
