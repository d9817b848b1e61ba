import errno
import gzip
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress

import fsspec
import pytest

from clipdre.errors import InputError, OutputError
from clipdre.formats.files import storage
from clipdre.formats.files.storage import (
    HOST,
    abandon,
    committed,
    exclusive,
    identify,
    is_compressed,
    is_unfinished,
    open_source,
    remove_unfinished,
    remove_unfinished_of,
    shared,
)


class TestOpenSource:
    def test_remote_sources_go_through_fsspec(self):
        with fsspec.open("memory://pool/a.tar", "wb") as file:
            file.write(b"tar")
        with open_source("memory://pool/a.tar") as file:
            assert file.read() == b"tar"
        assert identify("memory://pool/a.tar").nbytes == 3

    def test_gzip_is_decompressed_under_any_name(self, tmp_path):
        for content, compressed in ((b"tar", False), (gzip.compress(b"tar"), True)):
            (tmp_path / "a.tar").write_bytes(content)
            with open_source(str(tmp_path / "a.tar")) as file:
                assert is_compressed(file) == compressed
                assert file.read() == b"tar"

    @pytest.mark.parametrize(
        "url", ["/nowhere/a.tar", "memory://nowhere/a.tar", "nosuch://a/b.tar"]
    )
    def test_missing_sources_are_input_errors(self, url):
        with pytest.raises(InputError, match=r"cannot (open|find)") as caught:
            open_source(url)
        assert caught.value.cure.startswith("check the")
        with pytest.raises(InputError, match=r"cannot find"):
            identify(url)

    def test_identity_changes_with_the_file(self, tmp_path):
        path = tmp_path / "a.tar"
        path.write_text("1234")
        first = identify(str(path))
        assert first.nbytes == 4
        os.utime(path, ns=(1, 1))
        assert identify(str(path)) != first


class TestCommitted:
    def test_file_appears_complete_and_alone(self, tmp_path):
        path = tmp_path / "deep" / "a.txt"
        with committed(path) as temporary:
            temporary.write_text("half")
            assert not path.exists()
            temporary.write_text("whole")
        assert path.read_text() == "whole"
        assert os.listdir(path.parent) == ["a.txt"]

    def test_failure_keeps_the_old_file(self, tmp_path):
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

    def test_temporary_name_identifies_the_writer(self, tmp_path):
        with committed(tmp_path / "a.txt") as first, committed(tmp_path / "a.txt") as second:
            for temporary in (first, second):
                prefix, host, pid, random, name = temporary.name.split("-")
                assert (prefix, host, name) == (".unfinished", HOST, "a.txt")
                assert int(pid) == os.getpid()
                assert len(random) == 8
                assert is_unfinished(temporary.name)
                temporary.write_text(random)
            assert first != second

    def test_hosts_of_any_name_give_valid_and_different_labels(self, tmp_path, monkeypatch):
        hosts = ["gpu-node_01", "gpunode01", "", "é" * 70, "n" * 60 + "1", "n" * 60 + "2"]
        labels = set()
        for host in hosts:
            monkeypatch.setattr("socket.gethostname", lambda host=host: host)
            monkeypatch.setattr(storage, "HOST", storage._host())
            with committed(tmp_path / "a.txt", durable=False) as temporary:
                temporary.write_text("x")
                assert is_unfinished(temporary.name)
                assert len(temporary.name) < 80
                labels.add(temporary.name.split("-")[1])
        assert len(labels) == len(hosts)

    def test_names_may_be_as_long_as_the_file_system_allows(self, tmp_path):
        path = tmp_path / ("x" * 247 + ".parquet")
        with committed(path) as temporary:
            temporary.write_text("whole")
            assert temporary.suffix == ".parquet"
        assert path.read_text() == "whole"

    def test_planted_link_is_replaced_not_followed(self, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("precious")
        path = tmp_path / "a.txt"
        path.symlink_to(victim)
        with committed(path) as temporary:
            temporary.write_text("new")
        assert victim.read_text() == "precious"
        assert not path.is_symlink()
        assert path.read_text() == "new"

    def test_pipes_and_devices_are_not_replaced(self, tmp_path):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        with pytest.raises(OutputError, match="device or a pipe"), committed(path) as temporary:
            temporary.write_text("new")
        assert path.is_fifo()

    def test_full_disk_is_an_output_error(self, tmp_path):
        def write():
            with committed(tmp_path / "a.txt"):
                raise OSError(28, "No space left on device")

        with pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left") as caught:
            write()
        assert "run the same command again" in caught.value.cure

    def test_abandon_removes_temporary_files(self, tmp_path):
        with suppress(OutputError), committed(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            abandon()
            assert not temporary.exists()
        assert not list(tmp_path.iterdir())


@contextmanager
def child(code, *arguments):
    """A Python process that runs `code`, prints a line, and waits to be killed."""
    setup = "import os, sys, time\nfrom pathlib import Path\n"
    imports = "from clipdre.formats.files.storage import committed, exclusive, shared\n"
    command = [sys.executable, "-c", setup + imports + code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def holding(lock, folder):
    code = f"with {lock}(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    return child(code, folder)


WRITING = """
with committed(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""
# No process has this id: it is above the largest one that Linux assigns.
ELSEWHERE = ".unfinished-elsewhere-999999999-0123abcd-a.npy"


class TestRemoveUnfinished:
    def test_keeps_files_of_live_writers_and_removes_those_of_dead_ones(self, tmp_path):
        with child(WRITING, tmp_path / "a.npy") as (process, name):
            assert is_unfinished(name)
            remove_unfinished(tmp_path)
            assert os.listdir(tmp_path) == [name]
            process.kill()
            process.wait()
            remove_unfinished(tmp_path)
            assert os.listdir(tmp_path) == []

    def test_the_lock_includes_live_writers_and_other_hosts(self, tmp_path):
        with child(WRITING, tmp_path / "a.npy") as (_, name):
            (tmp_path / ELSEWHERE).write_text("half")
            remove_unfinished(tmp_path)
            assert sorted(os.listdir(tmp_path)) == sorted([name, ELSEWHERE])
            with shared(tmp_path):
                remove_unfinished(tmp_path)
            assert sorted(os.listdir(tmp_path)) == sorted([name, ELSEWHERE])
            with exclusive(tmp_path):
                remove_unfinished(tmp_path)
            assert os.listdir(tmp_path) == []

    def test_keeps_what_this_process_is_writing(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with committed(tmp_path / "a.npy") as temporary:
            temporary.write_text("whole")
            remove_unfinished(type(tmp_path)())
            with exclusive(tmp_path):
                remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == ["a.npy"]

    def test_removes_files_of_an_earlier_process_with_the_same_id(self, tmp_path):
        """In containers, each run may be process 1."""
        (tmp_path / f".unfinished-{HOST}-{os.getpid()}-0123abcd-a.npy").write_text("half")
        remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == []

    def test_keeps_files_of_other_users_processes(self, tmp_path, monkeypatch):
        def refuse(pid, number):
            raise PermissionError

        monkeypatch.setattr(os, "kill", refuse)
        name = f".unfinished-{HOST}-{os.getpid() + 1}-0123abcd-a.npy"
        (tmp_path / name).write_text("half")
        remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == [name]

    @pytest.mark.parametrize(
        "name",
        [
            ".unfinished-notes",
            ".unfinished-host-12-notes.txt",
            ".unfinished-host-12-0123ABCD-a.npy",
            ".unfinished-host-0-0123abcd-a.npy",
            ".unfinished-host-99999999999-0123abcd-a.npy",
            f"{ELSEWHERE[1:]}",
            "a.npy",
        ],
    )
    def test_keeps_files_under_other_names(self, tmp_path, name):
        (tmp_path / name).write_text("mine")
        with exclusive(tmp_path):
            remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == [name]

    def test_keeps_folders_links_and_pipes(self, tmp_path):
        (tmp_path / ELSEWHERE).mkdir()
        os.mkfifo(tmp_path / f"{ELSEWHERE}.pipe")
        (tmp_path / "precious").write_text("x")
        (tmp_path / f"{ELSEWHERE}.link").symlink_to(tmp_path / "precious")
        before = sorted(os.listdir(tmp_path))
        with exclusive(tmp_path):
            remove_unfinished(tmp_path)
        assert sorted(os.listdir(tmp_path)) == before
        assert (tmp_path / "precious").exists()

    def test_looks_only_into_the_folders_given(self, tmp_path):
        folders = ["", "scores", "scores/deep", "columns/a", "columns/b", "mine"]
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / ELSEWHERE).write_text("half")
        with exclusive(tmp_path):
            remove_unfinished(tmp_path, "scores", "columns/*", "none", "none/*")
        left = [folder for folder in folders if (tmp_path / folder / ELSEWHERE).exists()]
        assert left == ["scores/deep", "mine"]

    @pytest.mark.parametrize("pattern", ["scores", "*", "scores/*"])
    def test_does_not_follow_linked_folders(self, tmp_path, pattern, monkeypatch):
        outside = tmp_path / "outside"
        (outside / "deep").mkdir(parents=True)
        for folder in (outside, outside / "deep"):
            (folder / ELSEWHERE).write_text("half")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "scores").symlink_to(outside)
        monkeypatch.setattr(storage, "_exclusive", {tmp_path / "out"})  # it would be refused
        remove_unfinished(tmp_path / "out", pattern)
        assert (outside / ELSEWHERE).exists()
        assert (outside / "deep" / ELSEWHERE).exists()

    def test_missing_folder_is_ignored(self, tmp_path):
        remove_unfinished(tmp_path / "none", "scores")
        remove_unfinished_of(tmp_path / "none" / "a.npy")
        assert not (tmp_path / "none").exists()

    def test_leftovers_of_one_file_are_removed_with_their_dead_writers(self, tmp_path):
        name = "x" * 60 + ".parquet"
        others = [ELSEWHERE, f".unfinished-{HOST}-999999999-0123abcd-b.npy"]
        for other in others:
            (tmp_path / other).write_text("half")
        with child(WRITING, tmp_path / name) as (process, leftover):
            remove_unfinished_of(tmp_path / name)
            assert (tmp_path / leftover).exists()
            process.kill()
            process.wait()
            remove_unfinished_of(tmp_path / name)
            assert sorted(os.listdir(tmp_path)) == sorted(others)


@pytest.mark.parametrize("lock", [exclusive, shared])
class TestWithoutLocks:
    """File systems such as some mounts of Lustre and NFS."""

    @pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP"], autouse=True)
    def no_locks(self, request, monkeypatch):
        def refuse(handle, operation):
            code = getattr(errno, request.param)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(storage.fcntl, "flock", refuse)
        storage._warn_of_no_locks.cache_clear()

    def test_a_run_continues_with_one_warning(self, tmp_path, lock):
        with pytest.warns(UserWarning, match="has no locks"), lock(tmp_path / "a"):
            (tmp_path / "a" / "file").write_text("x")
        with lock(tmp_path / "b"):  # pytest turns a second warning into an error
            pass
        assert os.listdir(tmp_path / "a") == ["file"]

    @pytest.mark.filterwarnings("ignore:the file system")
    def test_nothing_shows_that_other_writers_are_gone(self, tmp_path, lock):
        (tmp_path / ELSEWHERE).write_text("half")
        with lock(tmp_path):
            remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == [ELSEWHERE]

    @pytest.mark.filterwarnings("ignore:the file system")
    def test_folder_is_removed_if_nothing_was_written(self, tmp_path, lock):
        with lock(tmp_path / "out"):
            pass
        assert not (tmp_path / "out").exists()


class TestLocks:
    @pytest.mark.parametrize(
        ("first", "second"),
        [("exclusive", exclusive), ("exclusive", shared), ("shared", exclusive)],
    )
    def test_exclusive_lock_excludes_all_others(self, tmp_path, first, second):
        message = r"another run is writing to .*/out: wait for it, or choose another `output`"
        with holding(first, tmp_path / "out") as (process, line):
            assert line == "held"
            with pytest.raises(OutputError, match=message), second(tmp_path / "out"):
                pass
            process.kill()
            process.wait()
        with second(tmp_path / "out"):  # the lock died with its process
            assert (tmp_path / "out").is_dir()

    def test_shared_locks_coexist_between_processes(self, tmp_path):
        with holding("shared", tmp_path / "out") as (process, line):
            assert line == "held"
            with shared(tmp_path / "out"):
                (tmp_path / "out" / "a").write_text("x")
            assert process.poll() is None
            with pytest.raises(OutputError), exclusive(tmp_path / "out"):
                pass
        assert os.listdir(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("lock", [exclusive, shared])
    def test_lock_is_released_after_the_block(self, tmp_path, lock):
        with lock(tmp_path / "out"):
            (tmp_path / "out" / "a").write_text("x")
        with exclusive(tmp_path / "out"):
            assert os.listdir(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("lock", [exclusive, shared])
    def test_folder_is_removed_if_nothing_was_written(self, tmp_path, lock):
        with lock(tmp_path / "out"):
            assert (tmp_path / "out").is_dir()
        assert not (tmp_path / "out").exists()
        (tmp_path / "mine").mkdir()
        with lock(tmp_path / "mine"):
            pass
        assert (tmp_path / "mine").is_dir()

    def test_empty_folder_stays_while_another_run_shares_it(self, tmp_path):
        with ExitStack() as other_run:
            with shared(tmp_path / "out"):
                _, line = other_run.enter_context(holding("shared", tmp_path / "out"))
                assert line == "held"
            assert (tmp_path / "out").is_dir()
            with pytest.raises(OutputError, match="another run"), exclusive(tmp_path / "out"):
                pass

    def test_folder_removed_before_it_was_locked_is_created_again(self, tmp_path, monkeypatch):
        lock, calls = storage.fcntl.flock, []

        def lose_the_race(handle, operation):
            calls.append(operation)
            if len(calls) == 1:
                (tmp_path / "out").rmdir()
            lock(handle, operation)

        monkeypatch.setattr(storage.fcntl, "flock", lose_the_race)
        with exclusive(tmp_path / "out"):
            with pytest.raises(OutputError, match="another run"), exclusive(tmp_path / "out"):
                pass
            (tmp_path / "out" / "a").write_text("x")
        assert os.listdir(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("lock", [exclusive, shared])
    @pytest.mark.parametrize("planted", ["scores", "embeddings/img_emb"])
    def test_planted_folder_links_are_refused(self, tmp_path, planted, lock):
        elsewhere, link = tmp_path / "elsewhere", tmp_path / "out" / planted
        elsewhere.mkdir()
        link.parent.mkdir(parents=True)
        link.symlink_to(elsewhere)
        with pytest.raises(OutputError, match="is a symbolic link"), lock(tmp_path / "out"):
            pass

    def test_other_errors_are_output_errors(self, tmp_path, monkeypatch):
        def refuse(handle, operation):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(storage.fcntl, "flock", refuse)
        with pytest.raises(OutputError, match=r"cannot lock .*: Input/output"), exclusive(tmp_path):
            pass

    def test_file_in_place_of_the_folder_is_refused(self, tmp_path):
        (tmp_path / "out").write_text("x")
        with (
            pytest.raises(OutputError, match=r"cannot write to .*/out"),
            exclusive(tmp_path / "out"),
        ):
            pass


@pytest.mark.parametrize("links", [True, False])
def test_the_first_of_two_writers_stays(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for text in ("one", "two"):
        with committed(tmp_path / "a.txt", first=True) as temporary:
            temporary.write_text(text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "one"}
