import shutil
import tarfile
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs

from clipdre.config import MeasureConfig
from clipdre.errors import InputError, ModelError, OutputError, ScoresError, UsageError
from clipdre.formats.files.storage import exclusive
from clipdre.formats.folders.columns import ColumnFolder
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.pipelines import measure as measuring
from clipdre.pipelines.duplicates import DUPLICATES
from clipdre.pipelines.measure import measure as measure_columns
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import pair, tiny_score, write_tar
from tests.pipelines import toys


def measure(folder, manifest, scorer, **options):
    return measure_columns(folder, manifest, scorer, MeasureConfig(**options))


@pytest.fixture
def scores(scored, tmp_path):
    """A score folder of three shards of 100 rows to add columns to."""
    path = shutil.copytree(scored[0], tmp_path / "scores")
    return ScoreFolder(path), read_complete_manifest(path)


def values(scores, name, column=None):
    folder, manifest = scores
    files = ColumnFolder(folder.columns / name)
    tables = [pq.read_table(files.file(shard.name)) for shard in manifest.shards]
    column = column or name.replace("-", "_")
    return np.concatenate([table[column].to_numpy() for table in tables])


def column_of(scores, name):
    folder, manifest = scores
    tables = [pq.read_table(folder.scores(shard.name)) for shard in manifest.shards]
    return np.concatenate([table[name].to_numpy() for table in tables])


def test_columns_can_be_selected_by(scores):
    measure(*scores, toys.Centred(), device="cpu")
    query = ScoreQuery(*scores)
    assert "centred" in query.columns
    found = select(query, Rule((Step(by="centred", top=Amount(10)),)))
    shard, row = found.places
    best = np.sort(np.argsort(-values(scores, "centred"), kind="stable")[:10])
    assert (shard * 100 + row).tolist() == best.tolist()


def test_fit_sees_the_whole_pool_whatever_the_tile_size(scores):
    pool = StoredPool(embedding_files(scores[0].embeddings, 3))
    vectors = pool.read("image", 0, 300).double().numpy()
    expected = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    record = measure(*scores, toys.Centred(), device="cpu", rows_at_once=33)
    np.testing.assert_allclose(values(scores, "centred"), expected, atol=1e-6)
    hashes = np.sort(column_of(scores, "key_hash"))[:10]
    assert record.figures == {"sampled": 10.0, "largest_sampled_hash": float(hashes.max())}


def test_two_devices_measure_what_one_measures(scores):
    measure(*scores, toys.Centred(), device="cpu")
    one = values(scores, "centred")
    shutil.rmtree(scores[0].columns)
    measure(*scores, toys.Centred(), device="cpu,cpu")
    np.testing.assert_allclose(values(scores, "centred"), one, atol=1e-6)


def test_samples_are_read_from_their_shards(scores, pool):
    measure(*scores, toys.Pixels(), device="cpu", rows_at_once=30)
    expected = []
    for path in sorted(pool.glob("*.tar")):
        with tarfile.open(path) as tar:
            images = [member for member in tar if member.name.endswith(".png")]
            expected += [toys.number(tar.extractfile(member).read()) for member in images]
    assert values(scores, "pixels").tolist() == expected


def test_a_changed_shard_is_refused(scores, pool, tmp_path):
    folder, manifest = scores
    moved = shutil.copytree(pool, tmp_path / "moved")
    tar = moved / f"{manifest.shards[0].name}.tar"
    shards = [
        structs.replace(shard, url=str(moved / f"{shard.name}.tar")) for shard in manifest.shards
    ]
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(InputError, match="has changed since it was scored"):
        measure(
            folder, structs.replace(manifest, shards=tuple(shards)), toys.Pixels(), device="cpu"
        )


def test_the_encoder_is_the_one_that_made_the_scores(scores):
    measure(*scores, toys.Reencoded(), device="cpu")
    np.testing.assert_allclose(
        values(scores, "reencoded"), column_of(scores, "similarity"), atol=1e-3
    )
    folder, manifest = scores
    other = structs.replace(manifest.model, digest="0" * 64)
    with pytest.raises(ModelError, match="are not those that made the scores"):
        measure(folder, structs.replace(manifest, model=other), PromptWeight(("x",)), device="cpu")


def test_scores_of_embeddings_have_no_encoder_and_no_samples(scores):
    folder, manifest = scores
    alone = structs.replace(manifest, settings={"read": {"embeddings": "DataComp"}})
    with pytest.raises(ModelError, match="no model to encode with"):
        measure(folder, alone, PromptWeight(("x",)), device="cpu")
    with pytest.raises(InputError, match="made from embeddings"):
        measure(folder, alone, toys.Pixels(), device="cpu")


def test_discarded_embeddings_are_named_but_captions_remain(scores):
    folder, manifest = scores
    shutil.rmtree(folder.embeddings)
    with pytest.raises(ScoresError, match="score again without `discard_embeddings`"):
        measure(folder, manifest, toys.Centred(), device="cpu")
    measure(folder, manifest, toys.Constant(), device="cpu")
    assert (values(scores, "constant") == 1).all()


def folders(scores):
    """Names of the measured columns' folders, without those that scoring writes."""
    return sorted({path.name for path in scores[0].columns.iterdir()} - {DUPLICATES})


def test_other_settings_are_refused_kept_apart_or_replaced(scores):
    measure(*scores, toys.Constant(1.0), device="cpu")
    with pytest.raises(
        ScoresError, match=r"settings \(value 1.0 then, value 2.0 now\): pass `overwrite`.*`suffix`"
    ):
        measure(*scores, toys.Constant(2.0), device="cpu")
    measure(*scores, toys.Constant(3.0), suffix="b", device="cpu")
    measure(*scores, toys.Constant(2.0), overwrite=True, device="cpu")
    assert (values(scores, "constant") == 2).all()
    assert (values(scores, "constant-b", "constant_b") == 3).all()
    assert {"constant", "constant_b"} <= set(ScoreQuery(*scores).columns)
    assert folders(scores) == ["constant", "constant-b"]


def test_the_old_columns_are_there_until_the_new_ones_are_complete(scores):
    measure(*scores, toys.Constant(1.0), device="cpu")
    with pytest.raises(RuntimeError, match="no more"):
        measure(*scores, toys.Failing(), overwrite=True, device="cpu")
    assert (values(scores, "constant") == 1).all()
    assert "constant" in ScoreQuery(*scores).columns
    measure(*scores, toys.Constant(2.0), overwrite=True, device="cpu")
    assert (values(scores, "constant") == 2).all()


def test_a_killed_exchange_of_columns_is_finished(scores, monkeypatch):
    measure(*scores, toys.Constant(1.0), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(*scores, toys.Constant(2.0), overwrite=True, device="cpu")
    assert "constant" not in ScoreQuery(*scores).columns
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "_measure_shards", killed)
        measure(*scores, toys.Constant(2.0), device="cpu")
    assert (values(scores, "constant") == 2).all()
    assert folders(scores) == ["constant"]


def killed(*args):
    raise KeyboardInterrupt


def test_a_stopped_run_resumes_at_the_shard_where_it_stopped(scores):
    with pytest.raises(RuntimeError, match="no more"):
        measure(*scores, toys.Failing(1.0), device="cpu")
    files = [ColumnFolder(scores[0].columns / "constant").file(s.name) for s in scores[1].shards]
    assert [file.exists() for file in files] == [True, True, False]
    assert "constant" not in ScoreQuery(*scores).columns
    before = [file.stat().st_mtime_ns for file in files[:2]]
    measure(*scores, toys.Constant(1.0), device="cpu")
    assert [file.stat().st_mtime_ns for file in files[:2]] == before
    assert (values(scores, "constant") == 1).all()


def rewritten(scores, column, value):
    """Change a column of the first score file, and leave its rows as they are."""
    file = scores[0].scores(scores[1].shards[0].name)
    table = pq.read_table(file)
    place = table.column_names.index(column)
    changed = table.set_column(place, column, [np.full(len(table), value, np.float32)])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)


def test_a_finished_scorer_is_fitted_again_only_if_what_it_asked_for_has_changed(scores, tmp_path):
    toys.Asking.fits.clear()
    np.save(tmp_path / "target.npy", np.ones((5, 128), np.float32))
    scorer = toys.Asking(str(tmp_path / "target.npy"))
    first = measure(*scores, scorer, device="cpu")
    assert measure(*scores, scorer, device="cpu") == first
    assert len(toys.Asking.fits) == 1
    np.save(tmp_path / "target.npy", np.ones((6, 128), np.float32))
    second = measure(*scores, scorer, device="cpu")
    assert second.figures["tiles"] == 6
    assert (values(scores, "asking") == 6).all()
    rewritten(scores, "log_ratio", 3.0)
    third = measure(*scores, scorer, device="cpu")
    assert len({first.stamp, second.stamp, third.stamp}) == 3
    assert len(toys.Asking.fits) == 3


def test_what_a_scorer_asked_for_may_be_lost(scores, tmp_path):
    toys.Asking.fits.clear()
    scorer = toys.Asking(str(scores[0].path))
    first = measure(*scores, scorer, device="cpu")
    for damage in (Path.unlink, lambda path: path.write_text("[[3]]")):
        damage(scores[0].columns / "asking" / ".asked.json")
        assert measure(*scores, scorer, device="cpu") == first
    assert len(toys.Asking.fits) == 3


def test_columns_have_one_type_even_if_the_first_shard_has_no_rows(tmp_path):
    (tmp_path / "pool").mkdir()
    write_tar(tmp_path / "pool" / "0.tar", [])
    members = [pair(f"{n}", seed=n, caption=f"red circle {n}") for n in range(5)]
    write_tar(tmp_path / "pool" / "1.tar", list(chain.from_iterable(members)))
    manifest = tiny_score(tmp_path / "pool", tmp_path / "scores")
    scores = ScoreFolder(tmp_path / "scores"), manifest
    measure(*scores, toys.Pixels(), device="cpu")
    files = ColumnFolder(scores[0].columns / "pixels")
    empty, full = (pq.read_table(files.file(shard.name)) for shard in manifest.shards)
    assert empty.schema.types == full.schema.types == [pa.int64()]
    found = select(ScoreQuery(*scores), Rule((Step(where=f"pixels = {full['pixels'][3]}"),)))
    assert found.places[1].tolist() == [3]


def test_a_new_version_of_a_scorer_counts_as_other_settings(scores):
    measure(*scores, toys.Constant(), device="cpu")

    class Newer(toys.Constant):
        version = 2

    with pytest.raises(ScoresError, match="other settings"):
        measure(*scores, Newer(), device="cpu")


def test_columns_of_a_pool_that_changed_are_measured_again(scores):
    folder, manifest = scores
    measure(folder, manifest, toys.Constant(), device="cpu")
    first = manifest.shards[0]
    table = pq.read_table(folder.scores(first.name)).slice(10)
    pq.write_table(table.replace_schema_metadata(None), folder.scores(first.name))
    smaller = structs.replace(first, rows=90)
    changed = structs.replace(manifest, shards=(smaller, *manifest.shards[1:]))
    assert "constant" not in ScoreQuery(folder, changed).columns
    shutil.rmtree(folder.embeddings)
    measure(folder, changed, toys.Constant(), device="cpu")
    assert len(values((folder, changed), "constant")) == 290
    assert "constant" in ScoreQuery(folder, changed).columns


@pytest.mark.parametrize("suffix", ["A", "a b", "../x", "_a", "a__b", "a-b"])
def test_a_suffix_is_a_name(scores, suffix):
    with pytest.raises(UsageError, match="is not a name"):
        measure(*scores, toys.Constant(), suffix=suffix, device="cpu")


def test_columns_do_not_hide_those_of_others(scores):
    with pytest.raises(UsageError, match="log_ratio exists already, from clipdre score"):
        measure(*scores, toys.Impostor(), device="cpu")
    measure(*scores, toys.Impostor(), suffix="mine", device="cpu")

    class Rival(toys.Constant):
        name = "rival"

        def columns(self):
            return (replace(super().columns()[0], name="log_ratio_mine"),)

    with pytest.raises(UsageError, match="log_ratio_mine exists already, from impostor-mine"):
        measure(*scores, Rival(), device="cpu")


@pytest.mark.parametrize("extra", [False, True])
def test_a_scorer_returns_what_it_declares(scores, extra):
    with pytest.raises(ScoresError, match=r"it must return misshapen, each of shape \(100,\)"):
        measure(*scores, toys.Misshapen(extra), device="cpu")
    assert "misshapen" not in ScoreQuery(*scores).columns


def test_a_folder_that_is_being_scored_is_not_measured(scores):
    with exclusive(scores[0].path), pytest.raises(OutputError, match="another run is writing"):
        measure(*scores, toys.Constant(), device="cpu")


class TestOtherColumns:
    @pytest.mark.parametrize("of", ["log_ratio", "centred"])
    def test_scored_and_measured_ones_can_be_read(self, scores, of):
        measure(*scores, toys.Centred(), device="cpu")
        record = measure(*scores, toys.Copied(of), device="cpu", rows_at_once=33)
        expected = column_of(scores, of) if of == "log_ratio" else values(scores, of)
        np.testing.assert_array_equal(values(scores, "copied"), expected)
        sampled = np.argsort(column_of(scores, "key_hash"))[:50]
        assert record.figures == {"found": 1.0, "least": pytest.approx(expected[sampled].min())}

    def test_what_they_hold_is_part_of_the_stamp(self, scores):
        first = measure(*scores, toys.Constant(), device="cpu")
        copied = toys.Copied("constant")
        before = measure(*scores, copied, device="cpu")
        assert measure(*scores, copied, device="cpu") == before
        measure(*scores, toys.Constant(5.0), device="cpu", overwrite=True)
        assert measure(*scores, copied, device="cpu").stamp != before.stamp
        assert first.stamp != before.stamp
        assert (values(scores, "copied") == 5.0).all()

    def test_one_that_is_out_of_date_is_refused(self, scores):
        measure(*scores, toys.Constant(), device="cpu")
        folder = ColumnFolder(scores[0].columns / "constant")
        table = pq.read_table(folder.file("00001"))
        pq.write_table(table.replace_schema_metadata({}), folder.file("00001"))
        with pytest.raises(ScoresError, match="column constant was measured for another state"):
            measure(*scores, toys.Copied("constant"), device="cpu")

    def test_one_that_is_missing_is_none(self, scores):
        with pytest.raises(ScoresError, match="no column nowhere"):
            measure(*scores, toys.Copied("nowhere"), device="cpu")


def test_texts_and_gaps_are_stored_also_after_a_shard_without_rows(tmp_path):
    (tmp_path / "pool").mkdir()
    write_tar(tmp_path / "pool/00000.tar", [("a.png", b"broken"), ("a.txt", b"red")])
    members = [m for n in range(4) for m in pair(f"{n}", ("red", "a hat")[n % 2], n)]
    write_tar(tmp_path / "pool/00001.tar", members)
    manifest = tiny_score(tmp_path / "pool", tmp_path / "scores")
    folder = ScoreFolder(tmp_path / "scores")
    assert [shard.rows for shard in manifest.shards] == [0, 4]
    measure(folder, manifest, toys.Worded(), device="cpu")
    query = ScoreQuery(folder, manifest)
    found = select(query, Rule((Step(where="word = 'a' AND gappy = 1"),)))
    assert found.table(["caption"])["caption"].to_pylist() == ["a hat", "a hat"]
    assert len(select(query, Rule((Step(where="gappy IS NULL"),)))) == 2


class Overflowing(toys.Constant):
    def fit(self, pool):
        return {"largest": np.array(np.inf)}


def test_figures_that_are_not_finite_are_refused_before_anything_is_recorded(scores):
    """A record with one could not be read again, and would block the folder."""
    with pytest.raises(ScoresError, match="cannot learn from this pool: largest is not finite"):
        measure(*scores, Overflowing(), device="cpu")
    assert not (scores[0].columns / "constant" / "record.json").exists()
    assert "constant" not in ScoreQuery(*scores).columns
