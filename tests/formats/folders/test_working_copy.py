"""Working copies, with made-up files in the place of scores."""

import json
import pickle

import fsspec
import pytest

from clipdre.errors import InputError, OutputError, ScoresError
from clipdre.formats.files import remote
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.layout import is_ours
from clipdre.formats.folders.working_copy import local_copy

URL, ROOT = "memory://bucket/made-up", "/bucket/made-up"
VECTORS, TABLE = "embeddings/img_emb/img_emb_0.npy", "embeddings/metadata/metadata_0.parquet"


@pytest.fixture
def files(monkeypatch):
    monkeypatch.setattr(remote, "WAITS", ())
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    for name, content in {"manifest.json": plan(), "scores/a.parquet": b"1", VECTORS: b"2"}.items():
        found.pipe_file(f"{ROOT}/{name}", content)
    yield found
    found.store.clear()


def plan(*, complete=True, run="first"):
    return json.dumps({"complete": complete, "run": run}).encode()


def opened(scratch):
    folder = ScoreFolder(local_copy(URL, scratch))
    assert not folder.is_new()
    return folder


def content(files):
    return {p.removeprefix(f"{ROOT}/"): files.cat_file(p) for p in files.find(ROOT)}


def write(folder, name, content):
    path = folder.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_vectors_are_fetched_when_they_are_asked_for(files, tmp_path):
    folder = opened(tmp_path)
    assert (folder.path / "scores" / "a.parquet").read_bytes() == b"1"
    assert not folder.embeddings.exists()
    worker = pickle.loads(pickle.dumps(folder))
    worker.store.fetch(worker.embeddings)
    assert (folder.path / VECTORS).read_bytes() == b"2"


def test_local_folders_have_no_store(tmp_path):
    folder = ScoreFolder(local_copy(tmp_path / "scores"))
    folder.store.fetch(folder.path)
    folder.store.settle()
    assert (folder.path, folder.store.sizes()) == (tmp_path / "scores", None)


def test_marks_are_put_after_what_they_stand_for(files, tmp_path, monkeypatch):
    folder = opened(tmp_path)
    put = []
    monkeypatch.setattr(type(files), "put_file", lambda _, path, name, **__: put.append(name))
    monkeypatch.setattr(type(files), "pipe_file", lambda _, name, content: put.append(name))
    for name in ("manifest.json", TABLE, VECTORS, "columns/x/record.json", "columns/x/a.parquet"):
        write(folder, name, plan(run="second"))
    folder.store.push()
    names = [name.removeprefix(f"{ROOT}/") for name in put]
    assert names[0] == names[-1] == "manifest.json"  # unfinished, then complete
    assert set(names[1:3]) == {VECTORS, "columns/x/a.parquet"}
    assert set(names[3:5]) == {TABLE, "columns/x/record.json"}


def test_renamed_and_linked_files_are_copied_inside_the_store(files, tmp_path, monkeypatch):
    folder = opened(tmp_path)
    monkeypatch.setattr(type(files), "put_file", None)
    (folder.path / "scores" / "a.parquet").rename(folder.path / "scores" / "b.parquet")
    folder.store.settle()
    assert content(files).keys() == {"manifest.json", "scores/b.parquet", VECTORS}


def test_only_what_was_removed_here_is_removed_there(files, tmp_path):
    folder = opened(tmp_path)
    files.pipe_file(f"{ROOT}/columns/x/a.parquet", b"of another machine")
    files.pipe_file(f"{ROOT}/notes.txt", b"mine")
    (folder.path / "scores" / "a.parquet").unlink()
    folder.store.settle()
    assert content(files).keys() == {"manifest.json", VECTORS, "columns/x/a.parquet", "notes.txt"}
    folder.store.claim(folder.embeddings)
    folder.store.settle()
    assert VECTORS not in content(files)


def test_scratch_that_somebody_cleaned_removes_nothing(files, tmp_path):
    opened(tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        path.unlink()
    opened(tmp_path).store.settle()
    assert "scores/a.parquet" in content(files)


def test_what_never_reached_the_store_is_kept_for_the_same_run_only(files, tmp_path):
    write(opened(tmp_path), "scores/b.parquet", b"3")
    assert (opened(tmp_path).path / "scores" / "b.parquet").exists()
    files.pipe_file(f"{ROOT}/manifest.json", plan(run="second"))
    assert not (opened(tmp_path).path / "scores" / "b.parquet").exists()


def test_what_the_store_has_replaced_is_fetched_again(files, tmp_path):
    opened(tmp_path)
    files.pipe_file(f"{ROOT}/scores/a.parquet", b"new")
    assert (opened(tmp_path).path / "scores" / "a.parquet").read_bytes() == b"new"


def test_lost_index_means_fetching_again(files, tmp_path):
    folder = opened(tmp_path)
    write(folder, "scores/a.parquet", b"anything")
    (folder.path.parent / "index.json").write_text("{")
    assert (opened(tmp_path).path / "scores" / "a.parquet").read_bytes() == b"1"


def test_another_run_is_noticed_before_anything_is_mixed(files, tmp_path):
    folder = opened(tmp_path)
    files.pipe_file(f"{ROOT}/manifest.json", plan(run="second"))
    with pytest.raises(ScoresError, match=f"another run has replaced the scores in {URL}"):
        folder.store.fetch(folder.embeddings)
    write(folder, "scores/a.parquet", b"3")
    with pytest.raises(OutputError, match=f"another run has replaced the scores in {URL}"):
        folder.store.push()
    assert content(files)["scores/a.parquet"] == b"1"


def test_first_writer_wins(files, tmp_path):
    one, other = opened(tmp_path / "1"), opened(tmp_path / "2")
    for folder in (one, other):
        write(folder, "columns/x/.plan.json", str(folder.path).encode())
        folder.store.publish(folder.path / "columns" / "x" / ".plan.json")
    plans = [(f.path / "columns" / "x" / ".plan.json").read_text() for f in (one, other)]
    assert plans == [str(one.path)] * 2


def test_names_of_a_stranger_are_not_ours():
    leading = ("../a", "scores/../../a", "/scores/a", "scores//a", "scores/./a", "scores/a\0b", "")
    others = ("scores", "notes.txt", ".replacement/notes.txt", "scores/.unfinished-h-1-0123abcd-a")
    assert not [name for name in (*leading, *others) if is_ours(name)]


def test_store_that_refuses_is_one_line_without_secrets(files, tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError("u:SECRET@bucket is read-only")

    url = URL.replace("//", "//u:SECRET@")
    folder = opened(tmp_path)
    for method in ("pipe_file", "put_file"):
        monkeypatch.setattr(type(files), method, refuse)
    write(folder, "scores/b.parquet", b"3")
    for work in (folder.store.check_writable, folder.store.push):
        with pytest.raises(OutputError, match=f"cannot write (to )?{URL}"):
            work()
    monkeypatch.setattr(type(files), "find", refuse)
    with pytest.raises(InputError) as caught:
        ScoreFolder(local_copy(url, tmp_path)).is_new()
    assert "SECRET" not in str(caught.value)
    assert caught.value.problem == f"cannot list {URL}: bucket is read-only"


def test_scratch_that_cannot_be_used_is_named(files, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot keep a working copy .*choose another `scratch`"):
        ScoreFolder(local_copy(URL, tmp_path / "file")).is_new()
