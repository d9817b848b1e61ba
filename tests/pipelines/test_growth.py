"""Pools that grow and shrink: nothing is encoded twice, and old scores stay until new ones are."""

import dataclasses
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from clipdre.config import EmitConfig, EstimateConfig, ReferenceMethod, RunConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.encoding import jobs as encoding_jobs
from clipdre.errors import ModelError, ScoresError, UsageError
from clipdre.estimating import jobs as estimating_jobs
from clipdre.estimating.check import check_reference
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest, read_manifest
from clipdre.pipelines import encoded
from clipdre.pipelines import measure as measuring
from clipdre.pipelines.measure import measure
from clipdre.pipelines.score import rescore, score_stored
from clipdre.reporting.summary import summarize
from clipdre.scorers.normsim import NormSim
from clipdre.sql.query import ScoreQuery
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, all_files, read_scores, rows_of, subset_of, tiny_score
from tests.pipelines.scoring import assert_same_scores, with_method


def assert_as_at_once(found, whole):
    """Compare with a pool that was scored at once, from shards in another folder."""
    assert {Path(path).name for path in found["path"].to_pylist()} == {
        f"{shard}.tar" for shard in found["shard"].to_pylist()
    }
    whole = read_scores(*whole).drop_columns("path")
    assert_same_scores(found.drop_columns("path"), whole, atol=1e-6)


def recorded(monkeypatch, module, name, stop_at=None):
    """Record the names of shards that a function is called for; stop at one of its calls."""
    monkeypatch.setattr(encoding_jobs, "TOGETHER", 0)  # a shard each
    original, names = getattr(module, name), []

    def recording(found, shard, *args):
        if stop_at == len(names):
            raise KeyboardInterrupt
        names.append(shard.name)
        return original(found, shard, *args)

    monkeypatch.setattr(module, name, recording)
    return names


@pytest.fixture
def encodes(monkeypatch):
    """The shards that are encoded from here on."""
    return recorded(monkeypatch, encoding_jobs, "commit_shard")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Five shards of 20 pairs."""
    folder = tmp_path_factory.mktemp("shards")
    write_pool(folder, 100, seed=3, noise={}, shard_size=20)
    return folder


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """The scores of all shards at once."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    return folder, tiny_score(shards, folder)


@pytest.fixture
def pool(shards, tmp_path):
    """A pool that holds the second and fourth shard so far."""
    (tmp_path / "pool").mkdir()
    add(shards, tmp_path / "pool", 1, 3)
    return tmp_path / "pool"


def add(shards, pool, *numbers):
    for n in numbers:
        shutil.copy2(shards / f"{n:05d}.tar", pool)


@pytest.fixture
def begun(pool, tmp_path):
    """The scores of that pool."""
    return tmp_path / "s", tiny_score(pool, tmp_path / "s")


class TestGrowing:
    def test_encodes_new_shards_alone_and_ends_as_if_scored_at_once(
        self, begun, shards, pool, whole, encodes
    ):
        add(shards, pool, 0, 2, 4)
        manifest = tiny_score(pool, begun[0])
        assert encodes == ["00000", "00002", "00004"]
        assert manifest.reference == whole[1].reference
        assert_as_at_once(read_scores(begun[0], manifest), whole)
        assert all_files(begun[0]).keys() == all_files(whole[0]).keys()

    def test_shards_keep_their_names_when_other_folders_join(self, begun, shards, pool, encodes):
        (pool.parent / "more").mkdir()
        add(shards, pool.parent / "more", 1, 2)
        manifest = tiny_score(pool.parent, begun[0])
        names = ["00001", "00003", "more/00001", "more/00002"]
        assert [shard.name for shard in manifest.shards] == names
        assert encodes == names[2:]
        assert tiny_score(pool.parent, begun[0]) == manifest

    def test_an_unfinished_run_grows_too(self, shards, pool, tmp_path, whole, monkeypatch):
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            recorded(patched, encoding_jobs, "commit_shard", stop_at=1)
            tiny_score(pool, tmp_path / "s")
        add(shards, pool, 0, 2, 4)
        encodes = recorded(monkeypatch, encoding_jobs, "commit_shard")
        manifest = tiny_score(pool, tmp_path / "s")
        assert encodes == ["00000", "00002", "00003", "00004"]
        assert_as_at_once(read_scores(tmp_path / "s", manifest), whole)

    def test_a_killed_growth_resumes_and_old_scores_stay(
        self, begun, shards, pool, whole, monkeypatch
    ):
        folder, before = begun[0], all_files(begun[0])
        add(shards, pool, 0, 2, 4)
        for stop, done in ((1, 1), (1, 1), (0, 0)):
            with monkeypatch.context() as patched:
                encodes = recorded(patched, encoding_jobs, "commit_shard", stop_at=stop)
                with pytest.raises(KeyboardInterrupt):
                    tiny_score(pool, folder)
            assert len(encodes) == done
            found = all_files(folder)
            assert {name: found[name] for name in before} == before
            assert read_complete_manifest(folder).rows == 40
        encodes = recorded(monkeypatch, encoding_jobs, "commit_shard")
        manifest = tiny_score(pool, folder)
        assert encodes == ["00004"]
        assert_as_at_once(read_scores(folder, manifest), whole)
        assert all_files(folder).keys() == all_files(whole[0]).keys()

    @pytest.mark.parametrize("killed_again", [None, 1, 9])
    def test_a_growth_that_another_one_overtakes_is_not_lost(
        self, begun, shards, pool, whole, monkeypatch, killed_again
    ):
        add(shards, pool, 0, 2)
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            recorded(patched, encoding_jobs, "commit_shard", stop_at=1)
            tiny_score(pool, begun[0])
        add(shards, pool, 4)
        if killed_again is not None:  # while it takes over what is there
            with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
                stop_linking(patched, after=killed_again)
                tiny_score(pool, begun[0])
        encodes = recorded(monkeypatch, encoding_jobs, "commit_shard")
        manifest = tiny_score(pool, begun[0])
        assert encodes == ["00002", "00004"]
        assert_as_at_once(read_scores(begun[0], manifest), whole)
        assert all_files(begun[0]).keys() == all_files(whole[0]).keys()

    def test_where_files_cannot_be_linked_they_are_copied(
        self, begun, shards, pool, whole, monkeypatch, encodes
    ):
        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(encoded.os, "link", refuse)
        add(shards, pool, 0, 2, 4)
        manifest = tiny_score(pool, begun[0])
        assert len(encodes) == 3
        assert_as_at_once(read_scores(begun[0], manifest), whole)

    def test_without_embeddings_it_is_refused_with_the_cure(self, shards, pool, tmp_path):
        tiny_score(pool, tmp_path / "s", discard_embeddings=True)
        before = all_files(tmp_path / "s")
        add(shards, pool, 0)
        with pytest.raises(ScoresError, match="keeps no embeddings") as caught:
            tiny_score(pool, tmp_path / "s")
        assert "as `reference` if shards were added, or pass `overwrite`" in caught.value.cure
        assert all_files(tmp_path / "s") == before

    def test_an_abandoned_folder_of_the_users_stays(self, begun, shards, pool):
        mine = ScoreFolder(begun[0]).abandoned.path / "mine.txt"
        mine.parent.mkdir()
        mine.write_text("mine")
        add(shards, pool, 0)
        tiny_score(pool, begun[0])
        assert mine.read_text() == "mine"


def stop_linking(monkeypatch, after):
    """Raise KeyboardInterrupt when so many files have been taken over."""
    link, done = encoded._link, []

    def stopping(*args):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(args)
        link(*args)

    monkeypatch.setattr(encoded, "_link", stopping)


class TestMeasuredColumns:
    @pytest.fixture
    def scorer(self, whole):
        return NormSim(target=str(whole[0]))

    @pytest.fixture
    def measured(self, begun, scorer):
        measure(ScoreFolder(begun[0]), begun[1], scorer)
        return ScoreFolder(begun[0])

    def test_are_current_after_other_estimates(self, measured, pool):
        manifest = tiny_score(pool, measured.path, with_method(ReferenceMethod.SAMPLE, bulk=32))
        assert "normsim" in ScoreQuery(measured, manifest).columns

    def test_are_measured_again_after_pruning_at_no_cost(self, measured, scorer, pool, monkeypatch):
        (pool / "00001.tar").unlink()
        with pytest.warns(UserWarning, match="as they were: normsim"):
            manifest = tiny_score(pool, measured.path, prune=True)
        monkeypatch.setattr(measuring.ColumnFolder, "write", None)
        measure(measured, manifest, scorer)
        assert "normsim" in ScoreQuery(measured, manifest).columns

    def test_of_old_shards_are_not_measured_again(
        self, measured, scorer, shards, pool, monkeypatch
    ):
        add(shards, pool, 0, 2)
        with pytest.warns(UserWarning, match="measured for the shards as they were: normsim"):
            manifest = tiny_score(pool, measured.path)
        query = ScoreQuery(measured, manifest)
        assert "normsim" not in query.columns
        problem, cure = query.unknown_column("normsim")
        assert "another state" in problem
        assert "measure' again" in cure
        written, write = [], measuring.ColumnFolder.write
        monkeypatch.setattr(
            measuring.ColumnFolder,
            "write",
            lambda self, shard, *args: (written.append(shard), write(self, shard, *args)),
        )
        measure(measured, manifest, scorer)
        assert written == ["00000", "00002"]
        assert "normsim" in ScoreQuery(measured, manifest).columns


class TestEstimates:
    @pytest.mark.parametrize(
        "config",
        [
            with_method(ReferenceMethod.SAMPLE, bulk=32),
            with_method(ReferenceMethod.STRATIFIED, bulk=32, neighbors=10),
            with_method(ReferenceMethod.AUTO, tau=16),
            dataclasses.replace(TINY, estimate=EstimateConfig(alike=0.5)),
        ],
    )
    def test_change_without_encoding(self, begun, pool, tmp_path, encodes, config):
        manifest = tiny_score(pool, begun[0], config)
        assert encodes == []
        fresh = tiny_score(pool, tmp_path / "fresh", config)
        assert manifest.reference == fresh.reference
        assert_same_scores(
            read_scores(begun[0], manifest), read_scores(tmp_path / "fresh", fresh), atol=1e-6
        )
        assert all_files(begun[0]).keys() == all_files(tmp_path / "fresh").keys()

    def test_old_scores_stay_until_new_ones_are_complete(self, begun, pool, monkeypatch):
        before = all_files(begun[0])
        with monkeypatch.context() as patched:
            patched.setattr(estimating_jobs, "estimate_rows", None)
            with pytest.raises(TypeError):
                tiny_score(pool, begun[0], with_method(ReferenceMethod.SAMPLE, bulk=32))
        found = all_files(begun[0])
        assert {name: found[name] for name in before} == before


class TestKeptReference:
    @pytest.fixture
    def kept(self, begun, shards, pool):
        """The scores of a pool that grew while its reference was kept."""
        add(shards, pool, 0, 2)
        return begun[0], tiny_score(pool, begun[0], keep_reference=True)

    def test_scores_new_rows_against_the_old_ones(self, kept, begun, shards, pool, tmp_path):
        folder, manifest = kept
        assert manifest.reference == begun[1].reference
        later = [shard.after_reference for shard in manifest.shards]
        assert later == [True, False, True, False]
        assert manifest.after_reference == 40
        assert read_complete_manifest(folder) == manifest
        (tmp_path / "new").mkdir()
        add(shards, tmp_path / "new", 0, 2)
        (tmp_path / "old").mkdir()
        add(shards, tmp_path / "old", 1, 3)
        old = tmp_path / "old-s", tiny_score(tmp_path / "old", tmp_path / "old-s")
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(old[0])))
        new = tmp_path / "new-s", tiny_score(tmp_path / "new", tmp_path / "new-s", saved)
        rows = read_scores(folder, manifest).sort_by("key_hash")
        apart = [read_scores(*scores) for scores in (old, new)]
        expected = np.concatenate([table["log_ratio"].to_numpy() for table in apart])
        order = np.argsort(np.concatenate([table["key_hash"].to_numpy() for table in apart]))
        np.testing.assert_allclose(rows["log_ratio"].to_numpy(), expected[order], atol=1e-6)

    def test_shares_add_up_over_the_grown_pool(self, kept):
        rows = read_scores(*kept)
        mean = rows["log_ratio"].to_numpy().mean()
        assert rows["kl_contribution"].to_numpy().sum() == pytest.approx(mean, rel=1e-5)

    def test_old_rows_are_not_estimated_again(self, begun, shards, pool, monkeypatch):
        monkeypatch.setattr("clipdre.estimating.estimate.QUERY_ROWS", 20)
        estimated, estimate = [], estimating_jobs.estimate_rows
        monkeypatch.setattr(
            estimating_jobs,
            "estimate_rows",
            lambda *args: (estimated.append(args[3:]), estimate(*args))[1],
        )
        add(shards, pool, 2)
        tiny_score(pool, begun[0], keep_reference=True)
        assert estimated == [(20, 40)]

    def test_grows_again_and_is_rebuilt_when_asked(self, kept, shards, pool, whole, encodes):
        folder, manifest = kept
        assert tiny_score(pool, folder, keep_reference=True) == manifest
        add(shards, pool, 4)
        again = tiny_score(pool, folder, keep_reference=True)
        assert [s.name for s in again.shards if not s.after_reference] == ["00001", "00003"]
        assert again.reference == manifest.reference
        assert encodes == ["00004"]
        rebuilt = tiny_score(pool, folder)
        assert rebuilt.after_reference == 0
        assert encodes == ["00004"]
        assert_as_at_once(read_scores(folder, rebuilt), whole)

    def test_another_tau_is_read_against_it(self, kept, pool):
        manifest = tiny_score(
            pool, kept[0], with_method(ReferenceMethod.AUTO, tau=16), keep_reference=True
        )
        assert manifest.reference == kept[1].reference
        assert "log_ratio_tau" in read_scores(kept[0], manifest).column_names

    def test_is_not_taken_for_the_pools_own(self, kept):
        folder = ScoreFolder(kept[0])
        assert summarize(folder, kept[1]).information is None
        assert check_reference(folder, kept[1]).checked == {}

    def test_nothing_is_kept_by_a_first_run(self, shards, tmp_path, whole):
        manifest = tiny_score(shards, tmp_path / "s", keep_reference=True)
        assert manifest.reference == whole[1].reference

    def test_a_saved_one_stays_the_reference(self, begun, shards, pool, tmp_path, encodes):
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(begun[0])))
        (tmp_path / "new").mkdir()
        add(shards, tmp_path / "new", 0)
        first = tiny_score(tmp_path / "new", tmp_path / "t", saved)
        add(shards, tmp_path / "new", 2)
        grown = tiny_score(tmp_path / "new", tmp_path / "t", keep_reference=True)
        assert grown.settings == first.settings
        assert grown.reference == first.reference == begun[1].reference
        assert grown.after_reference == 0
        assert encodes == ["00000", "00002"]


class TestGone:
    def test_shards_are_named_and_pruned(self, begun, pool, tmp_path, encodes, caplog):
        (pool / "00001.tar").unlink()
        before = all_files(begun[0])
        with pytest.raises(ScoresError) as caught:
            tiny_score(pool, begun[0])
        assert caught.value.problem.endswith(f"do not hold: 00001 ({pool}/00001.tar)")
        assert "pass `prune` to drop the rows" in caught.value.cure
        assert all_files(begun[0]) == before
        with caplog.at_level("INFO", "clipdre"):
            manifest = tiny_score(pool, begun[0], prune=True)
        assert caplog.messages == [
            "nothing to encode",
            "dropping 20 rows of shards that are gone or have changed: 00001",
        ]
        assert encodes == []
        fresh = tmp_path / "fresh", tiny_score(pool, tmp_path / "fresh")
        assert [shard.name for shard in manifest.shards] == ["00003"]
        assert_same_scores(read_scores(begun[0], manifest), read_scores(*fresh), atol=1e-6)
        assert all_files(begun[0]).keys() == all_files(fresh[0]).keys()

    def test_a_changed_shard_is_pruned_and_encoded_again(self, begun, shards, pool, encodes):
        (pool / "00001.tar").write_bytes((shards / "00002.tar").read_bytes())
        with pytest.raises(ScoresError, match=r"hold: 00001 \(changed: "):
            tiny_score(pool, begun[0])
        before = read_scores(*begun)["caption"].to_pylist()
        manifest = tiny_score(pool, begun[0], prune=True)
        assert encodes == ["00001"]
        captions = read_scores(begun[0], manifest)["caption"].to_pylist()
        assert captions[:20] != before[:20]
        assert captions[20:] == before[20:]

    def test_not_all_shards_can_be_pruned(self, begun, shards, tmp_path):
        (tmp_path / "other").mkdir()
        add(shards, tmp_path / "other", 0)
        with pytest.raises(ScoresError, match="`prune` would drop all of them"):
            tiny_score(tmp_path / "other", begun[0], prune=True)

    def test_rows_that_are_pruned_stay_in_a_kept_reference(self, begun, pool):
        (pool / "00001.tar").unlink()
        manifest = tiny_score(pool, begun[0], prune=True, keep_reference=True)
        assert manifest.reference == begun[1].reference
        assert manifest.rows == 20
        assert check_reference(ScoreFolder(begun[0]), manifest).checked == {}


class TestRescoring:
    def test_needs_neither_shards_nor_model_and_keeps_both(
        self, whole, shards, tmp_path, monkeypatch, encodes
    ):
        monkeypatch.setattr("clipdre.pipelines.score.load_encoder", None)
        config = EstimateConfig(ReferenceMethod.SAMPLE, bulk=32)
        manifest = score_stored(whole[0], tmp_path / "s", config)
        assert encodes == []
        assert manifest.model == whole[1].model
        assert manifest.has_tars
        assert manifest.reference.method == "sample"
        subset = subset_of((tmp_path / "s", manifest), by="similarity", top=10)
        write_tar_folder(subset, tmp_path / "kept", EmitConfig())
        same = subset_of(whole, by="similarity", top=10)
        assert rows_of(subset)["key"].equals(rows_of(same)["key"])

    def test_gives_the_same_scores_and_is_not_run_again(self, whole, tmp_path):
        manifest = score_stored(whole[0], tmp_path / "s", EstimateConfig())
        assert manifest == whole[1]
        assert_as_at_once(read_scores(tmp_path / "s", manifest), whole)
        before = all_files(tmp_path / "s")
        assert score_stored(whole[0], tmp_path / "s", EstimateConfig()) == manifest
        assert all_files(tmp_path / "s") == before

    def test_in_place_after_the_shards_are_gone(self, begun, pool):
        shutil.rmtree(pool)
        config = EstimateConfig(ReferenceMethod.SAMPLE, bulk=32)
        assert rescore(ScoreFolder(begun[0]), begun[0], config).reference.method == "sample"

    def test_takes_shards_that_could_not_be_read_as_they_are(self, pool, tmp_path, monkeypatch):
        with monkeypatch.context() as patched:
            failing(patched, "00003")
            manifest = tiny_score(pool, tmp_path / "s")
        assert manifest.failures == {"unreadable_shard": 1}
        again = rescore(ScoreFolder(tmp_path / "s"), tmp_path / "t", EstimateConfig())
        assert again == manifest

    def test_another_scale_is_refused(self, whole, tmp_path):
        with pytest.raises(UsageError, match="records the scale and bias of its model"):
            score_stored(whole[0], tmp_path / "s", EstimateConfig(), logit_scale=50.0)
        with pytest.raises(ModelError, match="do not record the logit scale"):
            score_stored(whole[0] / "embeddings", tmp_path / "s", EstimateConfig())

    def test_a_folder_without_embeddings_is_refused(self, pool, tmp_path):
        tiny_score(pool, tmp_path / "s", discard_embeddings=True)
        with pytest.raises(ScoresError, match="keeps no embeddings: score the shards themselves"):
            rescore(ScoreFolder(tmp_path / "s"), tmp_path / "t", EstimateConfig())
        assert not (tmp_path / "t").exists()

    def test_a_damaged_one_is_refused(self, begun, tmp_path):
        (begun[0] / "embeddings" / "metadata" / "metadata_1.parquet").write_bytes(b"x")
        with pytest.raises(ScoresError, match="lacks embeddings of 1 shard, such as 00003"):
            rescore(ScoreFolder(begun[0]), tmp_path / "t", EstimateConfig(), run=RunConfig())


def failing(monkeypatch, name):
    """Let one shard be unreadable."""
    opened = "clipdre.formats.tars.shards.open_source"
    from clipdre.formats.tars import shards as reading

    original = reading.open_source

    def refuse(url):
        if name in url:
            raise OSError(5, "Input/output error")
        return original(url)

    monkeypatch.setattr(opened, refuse)


def test_a_moved_pool_is_found_and_its_places_are_updated(begun, pool, encodes):
    pool.rename(pool.with_name("elsewhere"))
    manifest = tiny_score(pool.with_name("elsewhere"), begun[0])
    assert encodes == []
    assert {shard.url for shard in manifest.shards} == {
        str(path) for path in pool.with_name("elsewhere").glob("*.tar")
    }
    assert read_manifest(begun[0]) == manifest
    assert manifest.reference == begun[1].reference
