import os
import subprocess
import sys
from contextlib import suppress

import fsspec
import pytest

from clipdre.errors import InputError, OutputError
from clipdre.formats.files.storage import (
    abandon,
    committed,
    exclusive,
    identify,
    open_source,
    remove_unfinished,
)


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
    with pytest.raises(InputError, match=r"cannot (open|find)"):
        open_source(url)
    with pytest.raises(InputError, match=r"cannot find"):
        identify(url)


class TestExclusive:
    def test_two_runs_exclude_each_other(self, tmp_path):
        with exclusive(tmp_path / "out"):
            again = exclusive(tmp_path / "out")
            with pytest.raises(OutputError, match=r"another run is writing to .*/out: wait"), again:
                pass
            (tmp_path / "out" / "a").write_text("x")
        with exclusive(tmp_path / "out"):
            assert os.listdir(tmp_path / "out") == ["a"]

    def test_a_killed_run_leaves_no_lock(self, tmp_path):
        hold = (
            "import sys, time; from pathlib import Path; from clipdre.formats.files.storage import *\n"
            "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", hold, str(tmp_path / "out")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"held\n"
            with pytest.raises(OutputError, match="another run"), exclusive(tmp_path / "out"):
                pass
            process.kill()
            process.wait()
        with exclusive(tmp_path / "out"):
            pass

    def test_what_nothing_came_of_goes_again(self, tmp_path):
        with exclusive(tmp_path / "out"):
            pass
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("planted", ["scores", "embeddings/img_emb"])
    def test_planted_links_are_not_followed(self, tmp_path, planted):
        elsewhere, link = tmp_path / "elsewhere", tmp_path / "out" / planted
        elsewhere.mkdir()
        link.parent.mkdir(parents=True)
        link.symlink_to(elsewhere)
        with pytest.raises(OutputError, match="is a symbolic link"), exclusive(tmp_path / "out"):
            pass


def test_files_never_follow_a_planted_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "a.txt"
    path.symlink_to(victim)
    (tmp_path / f".unfinished-{os.getpid()}-a.txt").symlink_to(victim)
    with committed(path) as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_an_abandoned_process_leaves_no_temporary_file(tmp_path):
    with suppress(OutputError), committed(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        abandon()
        assert not temporary.exists()
    assert not list(tmp_path.iterdir())
