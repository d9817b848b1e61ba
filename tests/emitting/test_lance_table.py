"""Lance tables whose images stay in their tars; skipped without pylance."""

import gzip
import sys

import pytest

from clipdre.config import ReadConfig
from clipdre.emitting.lance_table import write_lance
from clipdre.errors import ClipdreError, InputError, OutputError, ScoresError
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.formats.tars.samples import Sample
from clipdre.formats.tars.shards import read_samples
from tests.formats.folders import schema_3
from tests.helpers import all_files, chosen, pair, png, tiny_score, unmeasured, write_tar

NAMES = ("key", "caption", "log_ratio", "path", "image_offset")


@pytest.fixture
def lance():
    return pytest.importorskip("lance", reason="needs the extra lance")


def images_of(table, rows):
    return [file and file.read() for file in table.take_blobs("image", indices=rows)]


def scored_pair(folder):
    """Two pairs in one tar."""
    folder.mkdir(parents=True)
    tar = write_tar(folder / "a b#%20é.tar", [*pair("1", seed=1), *pair("2", "blue star", seed=2)])
    tiny_score(folder, folder / "s")
    return tar, (folder / "s", unmeasured(folder / "s"))


def test_a_table_has_the_rows_and_reads_images_in_their_tars(lance, scored, pool, tmp_path):
    selection = chosen(scored, by="log_ratio", top=200)
    write_lance(selection, tmp_path / "x.lance")
    table = lance.dataset(str(tmp_path / "x.lance"))
    expected = [row for batch in selection.rows.batches(NAMES) for row in batch.to_pylist()]
    found = table.to_table(columns=list(NAMES)).to_pylist()
    assert found == [{name: row[name] for name in NAMES} for row in expected]
    samples = {
        (s.key, str(tar)): s.image
        for tar in pool.glob("*.tar")
        for s in read_samples(str(tar), ReadConfig())
        if isinstance(s, Sample)
    }
    images = images_of(table, list(range(200)))
    assert images == [samples[row["key"], row["path"]] for row in expected]
    files = all_files(tmp_path / "x.lance").values()
    assert not any(image in file for image in images[:9] for file in files)


def test_paths_may_have_any_characters(lance, tmp_path):
    _, scored = scored_pair(tmp_path / "o dd?")
    write_lance(chosen(scored), tmp_path / "x.lance")
    assert images_of(lance.dataset(str(tmp_path / "x.lance")), [1, 0]) == [png(2), png(1)]


def test_tars_that_moved_are_named(lance, tmp_path):
    tar, scored = scored_pair(tmp_path / "pool")
    tar = tar.rename(tmp_path / "moved.tar")
    with pytest.raises(InputError, match="cannot find"):
        write_lance(chosen(scored), tmp_path / "x.lance")
    assert not (tmp_path / "x.lance").exists()
    write_lance(chosen(scored), tmp_path / "x.lance", shards=[str(tar)])
    table = lance.dataset(str(tmp_path / "x.lance"))
    assert images_of(table, [0, 1]) == [png(1), png(2)]
    assert table.to_table()["path"].to_pylist() == [str(tar)] * 2


def test_only_a_table_is_replaced_and_only_if_asked(lance, scored, tmp_path):
    output = tmp_path / "x.lance"
    (output / "data").mkdir(parents=True)  # as a killed run leaves it
    write_lance(chosen(scored, by="log_ratio", top=9), output)
    with pytest.raises(OutputError, match=r"x.lance exists: .*pass `overwrite`"):
        write_lance(chosen(scored, by="log_ratio", top=5), output)
    write_lance(chosen(scored, by="log_ratio", top=5), output, overwrite=True)
    assert lance.dataset(str(output)).count_rows() == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(OutputError, match="is not a Lance table: choose another"):
            write_lance(chosen(scored), place, overwrite=True)
    with pytest.raises(OutputError, match="is part of a score folder"):
        write_lance(chosen(scored), scored[0] / "scores" / "x.lance")
    with pytest.raises(OutputError, match="nothing is kept"):
        write_lance(chosen(scored, where="false"), tmp_path / "y.lance")


def test_an_error_while_rows_are_read_keeps_its_own_words(lance, scored, tmp_path, monkeypatch):
    selection = chosen(scored)
    error = ScoresError("rows are damaged", "mend them")

    def batches(*_):
        yield from list(selection.rows.__class__.batches(selection.rows))[:1]
        raise error

    monkeypatch.setattr("clipdre.emitting.subset.Subset.batches", batches)
    with pytest.raises(ScoresError, match="rows are damaged: mend them"):
        write_lance(selection, tmp_path / "x.lance")


class TestImagesWithoutAPlace:
    def test_are_null_with_a_warning(self, lance, tmp_path):
        plain = write_tar(tmp_path / "a.tar", pair("1"))
        (tmp_path / "b.tar").write_bytes(gzip.compress(plain.read_bytes()))
        tiny_score(tmp_path, tmp_path / "s")
        selection = chosen((tmp_path / "s", unmeasured(tmp_path / "s")))
        with pytest.warns(UserWarning, match="1 row of 2 have no image"):
            write_lance(selection, tmp_path / "x.lance")
        assert images_of(lance.dataset(str(tmp_path / "x.lance")), [0, 1]) == [png(), None]

    def test_are_refused_if_there_are_no_others(self, lance, tmp_path):
        plain = write_tar(tmp_path / "a.tar", [*pair("1"), *pair("2")])
        plain.write_bytes(gzip.compress(plain.read_bytes()))
        tiny_score(tmp_path, tmp_path / "s")
        selection = chosen((tmp_path / "s", unmeasured(tmp_path / "s")))
        with pytest.raises(OutputError, match="no image can be read in place"):
            write_lance(selection, tmp_path / "x.lance")

    def test_are_those_of_older_scores(self, lance, tmp_path):
        _, (folder, _) = scored_pair(tmp_path / "pool")
        schema_3.downgrade(folder)
        selection = chosen((folder, read_complete_manifest(folder)))
        with pytest.raises(ScoresError, match="do not say where images are: score again"):
            write_lance(selection, tmp_path / "x.lance")


def test_without_the_package_the_error_names_the_extra(scored, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ClipdreError, match=r"needs the package pylance: .*'clipdre\[lance\]'"):
        write_lance(chosen(scored), tmp_path / "x.lance")
