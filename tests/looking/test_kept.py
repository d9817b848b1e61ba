import shutil

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.errors import SelectionError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.looking.kept import select_kept
from clipdre.sql.query import ScoreQuery
from tests.helpers import subset_of


@pytest.fixture(scope="module")
def kept(scored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "best"
    subset = subset_of(scored, by="log_ratio", top=0.1)
    write_tar_folder(subset, folder, EmitConfig())
    return folder, subset


def test_a_subset_and_a_list_keep_what_they_hold(scored, kept, tmp_path):
    folder, subset = kept
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    keys = subset.selection.keys()
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    for place in (folder, tmp_path / "keys.txt"):
        found = select_kept(query, place)
        assert found.selection.keys() == keys
        assert found.selection.rule.name == place.name
        assert found.missing == 0


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent", "cannot read `kept` .*absent .No such file"),
        ("folder", "is not a subset that 'clipdre filter' finished"),
        ("unfinished", "is not a subset that 'clipdre filter' finished"),
        ("damaged", r"0.parquet cannot be read .*: write the subset again"),
    ],
)
def test_what_is_neither_is_refused(scored, kept, tmp_path, place, message):
    (tmp_path / "folder").mkdir()
    for name in ("unfinished", "damaged"):
        shutil.copytree(kept[0], tmp_path / name)
    (tmp_path / "unfinished" / "summary.json").unlink()
    next((tmp_path / "damaged").glob("*.parquet")).write_bytes(b"PAR1 no")
    query = ScoreQuery(ScoreFolder(scored[0]), scored[1])
    with pytest.raises(SelectionError, match=message):
        select_kept(query, tmp_path / place)
