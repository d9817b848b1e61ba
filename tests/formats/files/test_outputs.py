import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.errors import InputError, OutputError
from clipdre.formats.files import remote
from clipdre.formats.files.outputs import output_folder, parent_folder, read_json, write_json
from clipdre.formats.files.parquet import save_table
from clipdre.formats.tars.samples import printable

LEFTOVER = ".unfinished-elsewhere-1-0123abcd-a.tar"
TABLE = pa.table({"key": ["a", "b"], "score": [1.0, 2.0]})


class Place:
    """An output folder and a second way to look into it."""

    def __init__(self, url):
        self.url, self.folder = url, output_folder(url)
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, name, content):
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(f"{self._root}/{name}", content)

    def content(self):
        if not self._files.exists(self._root):
            return {}
        paths = self._files.ls(self._root, detail=False)
        return {path.rpartition("/")[2]: self._files.cat_file(path) for path in paths}


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path, memory):
    return Place(str(tmp_path / "out") if request.param == "disk" else "memory://bucket/out")


class TestAnyFolder:
    def test_committed_file_appears_complete(self, place):
        with place.folder.committed("a.txt") as temporary:
            temporary.write_bytes(b"half")
            assert "a.txt" not in place.content()
            temporary.write_bytes(b"whole")
        assert place.content() == {"a.txt": b"whole"}

    def test_failed_commit_keeps_the_old_file(self, place):
        place.put("a.txt", b"old")

        def write():
            with place.folder.committed("a.txt") as temporary:
                temporary.write_bytes(b"new")
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            write()
        assert place.content() == {"a.txt": b"old"}

    def test_names_are_sorted(self, place):
        assert place.folder.names() == []
        for name in ("b.tar", "a.tar", ".hidden"):
            place.put(name, b"x")
        assert place.folder.names() == [".hidden", "a.tar", "b.tar"]

    def test_size_is_in_bytes(self, place):
        place.put("a.tar", b"12345")
        assert (place.folder.size("a.tar"), place.folder.size("none.tar")) == (5, None)

    def test_stamp_and_columns_of_a_table(self, place):
        with place.folder.committed("a.parquet") as temporary:
            save_table(TABLE, temporary, {"clipdre.plan": "digest"})
        place.put("b.parquet", b"damaged")
        assert place.folder.stamp("a.parquet") == {"clipdre.plan": "digest"}
        assert place.folder.stamp("b.parquet") == place.folder.stamp("none.parquet") == {}
        found = place.folder.table("a.parquet", ["score"])
        assert found.replace_schema_metadata(None).equals(TABLE.select(["score"]))
        assert pq.read_metadata(pa.BufferReader(place.content()["a.parquet"])).num_rows == 2

    def test_text_is_empty_if_missing(self, place):
        place.put("a.txt", "é\n".encode())
        assert (place.folder.text("a.txt"), place.folder.text("none.txt")) == ("é\n", "")

    def test_remove_ignores_missing_files(self, place):
        for name in ("a.txt", "b.txt"):
            place.put(name, b"x")
        place.folder.remove("a.txt")
        place.folder.remove("a.txt")
        assert place.content() == {"b.txt": b"x"}

    def test_json_reads_back(self, place):
        write_json(place.folder, "a.json", {"kept": 3, "name": "é"})
        assert read_json(place.folder, "a.json") == {"kept": 3, "name": "é"}
        assert place.content()["a.json"].endswith(b"}\n")

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
    def test_damaged_json_is_empty(self, place, content):
        place.put("a.json", content)
        assert read_json(place.folder, "a.json") == {}

    def test_takes_files_of_a_subfolder(self, place):
        inner = place.folder.subfolder("new")
        place.put("a.txt", b"old")
        place.put("b.txt", b"mine")
        write_json(inner, "a.txt", {"new": 1})
        place.folder.take("new", "a.txt")
        inner.rmdir()
        assert read_json(place.folder, "a.txt") == {"new": 1}
        assert inner.names() == []
        assert place.folder.names() == ["a.txt", "b.txt"]

    def test_knows_its_own_files_by_path_or_url(self, place):
        url = place.url
        assert place.folder.among([f"{url}/a.tar"]) == {"a.tar": f"{url}/a.tar"}
        assert set(place.folder.among([f"{url}/b.tar", f"{url}/a.tar"])) == {"a.tar", "b.tar"}
        others = [f"{url}/deeper/a.tar", f"{url}2/a.tar", "a.tar", "s3://b/a.tar"]
        assert place.folder.among(others) == {}

    def test_parent_of_a_file(self, place):
        folder, name = parent_folder(f"{place.url}/a.txt")
        assert (folder.name, name) == (place.folder.name, "a.txt")


class TestLocalFolder:
    def test_listing_hides_leftovers_and_keeps_them(self, tmp_path):
        for name in (LEFTOVER, ".unfinished-notes", "a.tar"):
            (tmp_path / name).write_text("x")
        assert output_folder(tmp_path).names() == [".unfinished-notes", "a.tar"]
        assert (tmp_path / LEFTOVER).exists()

    def test_leftovers_are_removed_on_request(self, tmp_path):
        (tmp_path / "mine").mkdir()
        for name in (LEFTOVER, ".unfinished-notes", "a.tar", f"mine/{LEFTOVER}"):
            (tmp_path / name).write_text("x")
        folder = output_folder(tmp_path)
        with folder.held():
            folder.remove_leftovers()
        assert {path.name for path in tmp_path.iterdir()} == {".unfinished-notes", "a.tar", "mine"}
        assert (tmp_path / "mine" / LEFTOVER).exists()

    def test_runs_exclude_each_other(self, tmp_path):
        with (
            output_folder(tmp_path).held(),
            pytest.raises(OutputError, match="another run is writing"),
            output_folder(str(tmp_path)).held(),
        ):
            pass

    def test_knows_its_files_through_links(self, tmp_path):
        (tmp_path / "pool").mkdir()
        (tmp_path / "pool" / "a.tar").write_text("x")
        (tmp_path / "linked").symlink_to(tmp_path / "pool")
        (tmp_path / "b.tar").symlink_to(tmp_path / "pool" / "a.tar")
        folder = output_folder(tmp_path / "pool")
        for url in ("linked/a.tar", "b.tar", "pool/../pool/a.tar"):
            for full in (f"{tmp_path}/{url}", f"file://{tmp_path}/{url}"):
                assert folder.among([full]) == {"a.tar": full}
        assert set(output_folder(tmp_path / "linked").among([f"{tmp_path}/pool/a.tar"])) == {
            "a.tar"
        }
        assert set(output_folder(tmp_path).among([f"{tmp_path}/b.tar"])) == {"b.tar"}

    def test_knows_its_files_by_escaped_paths(self, tmp_path):
        path = tmp_path / os.fsdecode(b"caf\xe9")
        path.mkdir()
        (path / "a.tar").write_text("x")
        escaped = printable(str(path / "a.tar"))
        assert output_folder(path).among([escaped]) == {"a.tar": escaped}

    def test_file_urls_are_folders_on_disk(self, tmp_path):
        write_json(output_folder(f"file://{tmp_path}/out"), "a.json", {"n": 1})
        assert read_json(output_folder(tmp_path / "out"), "a.json") == {"n": 1}

    def test_file_is_refused(self, tmp_path):
        (tmp_path / "a").write_text("x")
        with pytest.raises(OutputError, match="is a file: choose another `output`"):
            output_folder(tmp_path / "a")


class TestRemoteFolder:
    def test_listing_sees_what_another_process_wrote(self, memory, monkeypatch):
        store, cache = type(memory), {}
        listed = store.ls  # clients of real stores cache their listings

        def cached(self, path, **options):
            return cache.setdefault(path, listed(self, path, **options))

        monkeypatch.setattr(store, "ls", cached)
        monkeypatch.setattr(store, "invalidate_cache", lambda self, path=None: cache.clear())
        folder = output_folder("memory://bucket/out/")
        memory.pipe_file("/bucket/out/a.tar", b"x")
        assert folder.names() == ["a.tar"]
        memory.pipe_file("/bucket/out/b.tar", b"x")
        assert folder.names() == ["a.tar", "b.tar"]

    def test_leftovers_and_locks_do_not_apply(self, memory):
        memory.pipe_file(f"/bucket/out/{LEFTOVER}", b"x")
        folder = output_folder("memory://bucket/out")
        with folder.held(), folder.held():
            folder.remove_leftovers()
        assert folder.names() == [LEFTOVER]

    @pytest.mark.parametrize(
        ("method", "change", "message"),
        [
            ("put_file", lambda folder: write_json(folder, "a.json", {}), "cannot write"),
            ("rm_file", lambda folder: folder.remove("a.json"), "cannot remove"),
            ("mv", lambda folder: folder.take("b", "a.json"), "cannot write"),
        ],
    )
    def test_failed_changes_are_output_errors(self, memory, monkeypatch, method, change, message):
        def refuse(self, *args, **options):
            raise PermissionError("https://u:SECRET@h/a.json?sig=SECRET is read-only")

        monkeypatch.setattr(type(memory), method, refuse)
        with pytest.raises(OutputError, match=message) as caught:
            change(output_folder("memory://bucket/out"))
        assert caught.value.problem == (
            f"{message} memory://bucket/out/a.json: https://h/a.json is read-only"
        )
        assert caught.value.cure == "run the same command again to resume"

    def test_changes_and_reads_are_retried(self, memory, monkeypatch):
        monkeypatch.setattr(remote, "WAITS", (0.0,))
        for method in ("put_file", "cat_file", "rm_file"):
            monkeypatch.setattr(type(memory), method, flaky(getattr(type(memory), method)))
        folder = output_folder("memory://bucket/out")
        write_json(folder, "a.json", {"kept": 1})
        assert read_json(folder, "a.json") == {"kept": 1}
        folder.remove("a.json")
        assert folder.names() == []

    def test_unreadable_files_are_input_errors(self, memory, monkeypatch):
        def refuse(self, *args, **options):
            raise PermissionError("no access")

        monkeypatch.setattr(type(memory), "info", refuse)
        with pytest.raises(InputError, match=r"cannot read memory://bucket/out/a\.tar: no access"):
            output_folder("memory://bucket/out").size("a.tar")

    def test_unknown_store_is_refused(self):
        with pytest.raises(OutputError, match="cannot write to nosuch://out"):
            output_folder("nosuch://user:pw@out")


def flaky(method):
    """The method, failing at its first call."""
    calls = []

    def call(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise ConnectionError("reset by peer")
        return method(*args, **options)

    return call
