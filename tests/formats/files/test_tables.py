import pytest

from clipdre.errors import SelectionError
from clipdre.formats.files.tables import expand_tables


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.parquet",
        "a.parquet",
        ".hidden.parquet",
        "a.tar",
        "sub/c.parquet",
        ".sub/d.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["b.parquet"], ["b.parquet"]),
        (["."], ["a.parquet", "b.parquet", "sub/c.parquet"]),
        (["*.parquet"], ["a.parquet", "b.parquet"]),
        (["**/*.parquet"], ["a.parquet", "b.parquet", "sub/c.parquet"]),
        (["s*"], ["sub/c.parquet"]),
        (["b.parquet", ".", "sub/../b.parquet"], ["b.parquet", "a.parquet", "sub/c.parquet"]),
        ([], []),
    ],
)
def test_places_stand_for_files_each_once(folder, monkeypatch, places, names):
    monkeypatch.chdir(folder)
    assert expand_tables(places, "`joined`") == [folder / name for name in names]


def test_a_file_comes_before_a_pattern(folder):
    (folder / "[ab].parquet").write_bytes(b"")
    found = expand_tables([folder / "[ab].parquet"], "`joined`")
    assert found == [folder / "[ab].parquet"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.parquet", "`joined` none.parquet does not exist: check the path and its permissi"),
        ("z*.parquet", "no file matches `joined` z*.parquet: check the pattern"),
        ("empty", "folder `joined` empty and its subfolders hold no .parquet files: name the one"),
        ("x" * 300, f"cannot read `joined` {'x' * 300} (File name too long): check the path and"),
        ("s3://bucket/a.parquet", "`joined` s3://bucket/a.parquet does not exist: check the path"),
    ],
)
def test_places_that_stand_for_no_file_are_refused(folder, monkeypatch, place, message):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    with pytest.raises(SelectionError) as caught:
        expand_tables([place], "`joined`")
    assert str(caught.value).startswith(message)
