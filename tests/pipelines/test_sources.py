"""Pools of several sources whose shards have the same names, through every reader of a folder."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.config import EmitConfig, ReadConfig
from clipdre.doctor import diagnose
from clipdre.emitting.emit import write_tar_folder
from clipdre.emitting.export import write_keys
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.emitting.write import write_subset
from clipdre.errors import InputError, OutputError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.name_lists import read_names
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines.measure import measure
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.selecting.listed import select_listed
from clipdre.sql.query import ScoreQuery
from tests.emitting.contents import members
from tests.helpers import (
    all_files,
    chosen,
    pair,
    read_failures,
    read_scores,
    rows_of,
    tiny_score,
    unmeasured,
    write_tar,
)

SOURCES = ("cc12m", "cc3m")
NAMES = ["cc12m/00000", "cc12m/00001", "cc3m/00000", "cc3m/00001"]
LEFTOVER = ".unfinished-host-1-0123abcd-x.parquet"


def write_sources(pool: Path) -> None:
    """Write two shards of ten pairs for each source: the same names and keys, one image broken."""
    for n, source in enumerate(SOURCES):
        for shard in range(2):
            path = pool / source / f"{shard:05d}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            at = 10 * (2 * n + shard)
            pairs = [pair(f"{k:09d}", f"{source} {shard} {k}", at + k) for k in range(10)]
            broken = [("bad.png", b"no image"), ("bad.txt", b"bad")]
            write_tar(path, [*(m for members in pairs for m in members), *broken])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A pool of two sources and its scores."""
    folder = tmp_path_factory.mktemp("two")
    write_sources(folder / "pool")
    manifest = tiny_score(folder / "pool", folder / "s")
    return folder / "pool", (folder / "s", unmeasured(folder / "s")), manifest


def captions(table):
    return table["caption"].to_pylist()


def test_files_and_rows_are_named_by_relative_path(two):
    _, scored, manifest = two
    assert [shard.name for shard in manifest.shards] == NAMES
    assert [(shard.rows, shard.samples) for shard in manifest.shards] == [(10, 11)] * 4
    rows = read_scores(*scored)
    assert rows["shard"].unique().to_pylist() == NAMES
    assert captions(rows) == [f"{s} {n} {k}" for s in SOURCES for n in range(2) for k in range(10)]
    assert len(set(rows["key_hash"].to_pylist())) == 40
    files = all_files(scored[0])
    for part in ("scores", "failures", "columns/near-duplicates"):
        assert {f"{part}/{name}.parquet" for name in NAMES} <= files.keys()
    assert len(read_failures(*scored)) == 4


def test_a_source_by_itself_keeps_its_short_names(two, tmp_path):
    manifest = tiny_score(two[0] / "cc3m", tmp_path / "s")
    assert [shard.name for shard in manifest.shards] == ["00000", "00001"]


def test_measured_columns_lie_beside_each_source(two, tmp_path):
    shutil.copytree(two[1][0], tmp_path / "s")
    leftover = tmp_path / "s" / "columns" / "prompt-weight" / "cc3m" / LEFTOVER
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    measure(ScoreFolder(tmp_path / "s"), two[2], PromptWeight(prompt=("a circle",)))
    assert not leftover.exists()
    query = ScoreQuery(ScoreFolder(tmp_path / "s"), two[2])
    assert "prompt_weight" in query.columns


def test_leftovers_of_killed_runs_are_removed_from_subfolders(two, tmp_path):
    shutil.copytree(two[1][0], tmp_path / "s")
    leftover = tmp_path / "s" / "scores" / "cc3m" / LEFTOVER
    leftover.write_text("half")
    assert tiny_score(two[0], tmp_path / "s").rows == 40
    assert not leftover.exists()


def test_a_list_of_shard_and_key_selects_the_same_samples(two):
    selection = chosen(two[1], by="log_ratio", top=15)
    listed = io.BytesIO()
    write_keys(Subset(selection), listed)
    listed.seek(0)
    found = select_listed(selection.query, read_names(listed, "list"), "list")
    assert (found.names, found.missing) == (15, 0)
    assert rows_of(Subset(found.selection)).equals(rows_of(Subset(selection)))


@pytest.mark.parametrize("with_shard", [False, True])
def test_sidecars_are_joined_to_the_shards_of_their_source(two, tmp_path, with_shard):
    for source in SOURCES:
        for shard in ("00000", "00001"):
            path = tmp_path / source / f"{shard}.parquet"
            path.parent.mkdir(exist_ok=True)
            columns = {"key": [f"{k:09d}" for k in range(10)], "source": [f"{source} {shard}"] * 10}
            names = {"shard": [f"{source}/{shard}"] * 10} if with_shard else {}
            pq.write_table(pa.table({**columns, **names}), path)
    files = sorted(tmp_path.rglob("*.parquet"))
    selection = chosen(two[1], files)
    (join,) = selection.query.joins
    assert (join.by, join.matched) == (("shard", "key"), 40)
    for row in rows_of(Subset(selection)).to_pylist():
        assert row["caption"].startswith(row["source"].replace("0000", ""))


def emitted(subset, folder):
    write_tar_folder(subset, folder, EmitConfig())
    return members(folder / "00000000.tar")


def test_emitted_keys_are_unique_over_sources(two, tmp_path):
    subset = Subset(chosen(two[1]))
    found = emitted(subset, tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").glob("*.tar")) == ["00000000.tar"]
    assert len({name for name, _, _ in found}) == 80
    assert found[-2:][0][0] == "cc3m/00001-000000009.png"
    texts = [data.decode() for name, _, data in found if name.endswith("txt")]
    assert texts == captions(read_scores(*two[1]))


class TestMoved:
    @pytest.fixture
    def subset(self, two):
        return Subset(chosen(two[1], by="log_ratio", top=25))

    @pytest.mark.parametrize("places", [["."], ["cc3m", "cc12m"]])
    def test_a_pool_is_found_by_its_folders(self, two, subset, tmp_path, places):
        shutil.copytree(two[0], tmp_path / "new")
        urls = expand_shards([str(tmp_path / "new" / place) for place in places])
        expected = emitted(subset, tmp_path / "here")
        assert emitted(relocated(subset.selection, urls), tmp_path / "there") == expected

    def test_a_part_of_the_pool_does_for_samples_of_that_part(self, two, tmp_path):
        subset = Subset(chosen(two[1], where="shard LIKE 'cc3m/%'"))
        shutil.copytree(two[0] / "cc3m", tmp_path / "new" / "cc3m")
        moved = relocated(subset.selection, expand_shards([str(tmp_path / "new")]))
        assert emitted(moved, tmp_path / "there") == emitted(subset, tmp_path / "here")

    def test_samples_that_cannot_be_told_apart_are_refused(self, two, subset, tmp_path):
        for source, name in zip(SOURCES, ("x", "y"), strict=True):
            shutil.copytree(two[0] / source, tmp_path / "new" / name)
        with pytest.raises(InputError, match="10 kept keys are those of several samples"):
            relocated(subset.selection, expand_shards([str(tmp_path / "new")]))


def test_an_output_is_refused_deep_inside_a_score_folder(two, tmp_path):
    shutil.copytree(two[1][0], tmp_path / "s")
    place = str(tmp_path / "s" / "scores" / "cc3m" / "00000.parquet")
    with pytest.raises(OutputError, match="is part of a score folder"):
        write_subset(chosen((tmp_path / "s", two[2])), place, overwrite=True)


def test_doctor_names_shards_as_scores_does(two):
    found = diagnose(expand_shards([str(two[0])]), ReadConfig())
    assert [e.shard for e in found.findings["shared_key"].examples] == NAMES[:3]
    assert found.findings["unreadable_image"].examples[0].shard == NAMES[0]
