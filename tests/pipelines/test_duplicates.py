import math
from itertools import chain

import pytest

from clipdre.formats.folders.columns import ColumnFolder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.pipelines.duplicates import DUPLICATES
from clipdre.sql.query import ScoreQuery
from tests.helpers import pair, read_scores, tiny_score, write_tar


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Ten pairs in two shards; the first occurs three times, the second twice."""
    folder = tmp_path_factory.mktemp("copies")
    members = [pair(f"{n}", seed=n, caption=caption) for n, caption in enumerate(CAPTIONS)]
    again = [pair(key, seed=n, caption=CAPTIONS[n]) for key, n in (("a", 0), ("b", 0), ("c", 1))]
    (folder / "pool").mkdir()
    write_tar(folder / "pool" / "00000.tar", list(chain.from_iterable(members)))
    write_tar(folder / "pool" / "00001.tar", list(chain.from_iterable(again)))
    manifest = tiny_score(folder / "pool", folder / "scores")
    return folder, manifest


CAPTIONS = (
    "a red circle",
    "a large blue star in the top left",
    "green square on black",
    "a small yellow cross on striped",
    "purple ring",
    "an image showing orange triangle in the bottom right",
    "cyan star on grey",
    "brown circle in the top right",
    "a picture of small red square",
    "large ring on white",
)


def columns(folder, manifest):
    table = ScoreQuery(ScoreFolder(folder / "scores"), manifest)
    rows = table.fetchall("SELECT key, duplicate_group, duplicate_rank, log_ratio FROM pool")
    return {key: found for key, *found in rows}


def test_copies_share_a_group_and_are_ranked(copies):
    folder, manifest = copies
    found = columns(folder, manifest)
    table = read_scores(folder / "scores", manifest)
    hashes = dict(zip(table["key"].to_pylist(), table["key_hash"].to_pylist(), strict=True))
    for group in (["0", "a", "b"], ["1", "c"]):
        groups = {found[key][0] for key in group}
        assert groups == {min(hashes[key] for key in group)}
        assert sorted(found[key][1] for key in group) == list(range(1, len(group) + 1))
    for key in "23456789":
        assert found[key][:2] == [hashes[key], 1]


def test_the_record_counts_what_is_grouped(copies):
    folder, _ = copies
    record = ColumnFolder(ScoreFolder(folder / "scores").columns / DUPLICATES).record()
    assert record.settings == {"alike": 0.95}
    mean = (2 * math.log(2) + 3 * math.log(3)) / record.rows
    assert record.figures == {"groups": 2, "grouped": 5, "mean_log_size": pytest.approx(mean)}


def test_a_second_run_changes_nothing(copies):
    folder, manifest = copies
    path = ScoreFolder(folder / "scores").columns / DUPLICATES
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert tiny_score(folder / "pool", folder / "scores") == manifest
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before
