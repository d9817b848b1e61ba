"""Second runs in the same folder: kept, resumed, refused, or started over."""

import dataclasses
import errno
import hashlib
import json
import shutil
from contextlib import suppress
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.config import EstimateConfig, Precision, ReadConfig, ReferenceMethod, RunConfig
from clipdre.encoding import jobs as encoding_jobs
from clipdre.encoding.ingest import EmbeddingSource
from clipdre.errors import ModelError, OutputError, ScoresError
from clipdre.estimating import jobs as estimating_jobs
from clipdre.formats.files import storage
from clipdre.formats.folders.embeddings import embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import MANIFEST, read_complete_manifest, read_manifest
from clipdre.formats.folders.precomputed import find_layout
from clipdre.formats.tars.groups import CUT
from clipdre.pipelines.measure import measure
from clipdre.pipelines.rows import PoolReader
from clipdre.pipelines.score import score_embeddings
from clipdre.scorers.prompt_weight import PromptWeight
from clipdre.truth.pool import NOISE, write_pool
from tests.formats.folders.schema_1 import downgrade
from tests.helpers import TINY, all_files, pair, read_scores, tiny_score, write_tar
from tests.pipelines.scoring import assert_same_scores, with_method

JSON_TITLES = dataclasses.replace(TINY, read=ReadConfig(caption_field="title"))
# A temporary file of another machine.
LEFTOVER = ".unfinished-host-1-0123abcd-x.parquet"


def stop_at_the_second(monkeypatch, module, name):
    """Raise KeyboardInterrupt in the second call of a function; return the calls."""
    monkeypatch.setattr(encoding_jobs, "TOGETHER", 0)  # a shard each
    original, calls = getattr(module, name), []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, stopping)
    return calls


class TestAgain:
    def test_a_finished_run_is_not_run_again(self, scored, pool, monkeypatch):
        folder, manifest = scored
        before = all_files(folder)
        monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
        monkeypatch.setattr(estimating_jobs, "estimate_rows", None)
        again = tiny_score(pool, folder)
        assert again == read_manifest(folder)
        assert again.rows == manifest.rows
        assert all_files(folder) == before

    @pytest.mark.parametrize("stop_in", ["commit_shard", "scores_table"])
    def test_a_stopped_run_resumes_and_ends_the_same(
        self, scored, pool, tmp_path, monkeypatch, stop_in
    ):
        module = encoding_jobs if stop_in == "commit_shard" else estimating_jobs
        calls = stop_at_the_second(monkeypatch, module, stop_in)
        with pytest.raises(KeyboardInterrupt):
            tiny_score(pool, tmp_path / "s")
        assert not read_manifest(tmp_path / "s").complete
        (tmp_path / "s" / "scores").mkdir(exist_ok=True)
        (tmp_path / "s" / "scores" / LEFTOVER).write_text("half")
        manifest = tiny_score(pool, tmp_path / "s")
        assert manifest.complete
        if stop_in == "commit_shard":
            # One done, one stopped, two more: the first is not encoded again.
            assert len(calls) == 4
        assert set(all_files(tmp_path / "s")) == set(all_files(scored[0]))
        assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))

    def test_a_run_stopped_while_estimating_encodes_nothing_again(
        self, scored, pool, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("clipdre.estimating.estimate.QUERY_ROWS", 100)
        calls = stop_at_the_second(monkeypatch, estimating_jobs, "estimate_rows")
        with pytest.raises(KeyboardInterrupt):
            tiny_score(pool, tmp_path / "s")
        first = tmp_path / "s" / "scores" / "00000.parquet"
        written = first.stat().st_mtime_ns
        monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
        manifest = tiny_score(pool, tmp_path / "s")
        assert len(calls) == 4  # the first range is not estimated again
        assert first.stat().st_mtime_ns == written
        assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))

    def test_a_shard_that_was_cut_off_is_known_to_each_run(self, tmp_path, monkeypatch):
        (tmp_path / "pool").mkdir()
        for name in ("a", "b", "c"):
            members = [member for n in range(4) for member in pair(f"{n}", "red", n)]
            path = write_tar(tmp_path / "pool" / f"{name}.tar", members)
        path.write_bytes(path.read_bytes().rstrip(b"\0").ljust(4 * 2048, b"\0"))
        (tmp_path / "pool" / "sizes.json").write_text('{"a.tar": 4, "b.tar": 6, "c.tar": 4}')

        def run():
            with pytest.warns(UserWarning, match="shard .: ") as found:
                manifest = tiny_score(tmp_path / "pool", tmp_path / "s")
            assert [str(warning.message) for warning in found] == [
                "shard b: the tar holds 4 of 6 samples that sizes.json counts; "
                "copy or download it again",
                f"shard c: {CUT}",
            ]
            assert (manifest.rows, manifest.samples) == (12, 12)
            return manifest

        manifest = run()
        assert run() == manifest
        msgspec.structs.replace(manifest, complete=False).write(tmp_path / "s")
        monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)
        assert run() == manifest

    def test_a_shard_that_has_changed_is_named_with_its_difference(self, pool, tmp_path):
        shutil.copytree(pool, tmp_path / "pool")
        tiny_score(tmp_path / "pool", tmp_path / "s")
        (tmp_path / "pool" / "00001.tar").write_bytes(b"x" * 7000)
        difference = r"hold: 00001 \(changed: \d+,\d+ bytes then, 7,000 now\): give"
        with pytest.raises(ScoresError, match=difference):
            tiny_score(tmp_path / "pool", tmp_path / "s")

    @pytest.mark.parametrize(
        ("config", "difference"),
        [
            (
                JSON_TITLES,
                "read caption_field",
            ),
            (
                dataclasses.replace(
                    TINY, encode=dataclasses.replace(TINY.encode, precision=Precision.BF16)
                ),
                "model precision",
            ),
        ],
    )
    def test_other_settings_are_refused_with_the_difference(self, scored, pool, config, difference):
        folder, _ = scored
        before = all_files(folder)
        with pytest.raises(ScoresError, match=f"holds a run that differs in {difference}"):
            tiny_score(pool, folder, config)
        assert all_files(folder) == before

    def test_a_refused_run_removes_nothing(self, scored, pool, tmp_path):
        shutil.copytree(scored[0], tmp_path / "s")
        (tmp_path / "s" / "scores" / LEFTOVER).write_text("half")
        with pytest.raises(ScoresError, match="holds a run that differs"):
            tiny_score(pool, tmp_path / "s", JSON_TITLES)
        assert (tmp_path / "s" / "scores" / LEFTOVER).exists()
        tiny_score(pool, tmp_path / "s")
        assert not (tmp_path / "s" / "scores" / LEFTOVER).exists()

    @pytest.mark.parametrize("name", [LEFTOVER, ".unfinished-notes"])
    def test_a_run_killed_at_its_very_start_is_resumed_without_locks(
        self, pool, tmp_path, monkeypatch, name
    ):
        def refuse(handle, operation):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(storage.fcntl, "flock", refuse)
        storage._warn_of_no_locks.cache_clear()
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / name).write_text("half")
        with pytest.warns(UserWarning, match="has no locks"):
            assert tiny_score(pool, tmp_path / "s").complete
        assert (tmp_path / "s" / name).exists()  # its writer may be another machine

    def test_a_changed_shard_is_refused_and_overwrite_starts_over(self, tmp_path):
        write_pool(tmp_path / "p", 60, seed=1, noise={}, shard_size=30)
        tiny_score(tmp_path / "p", tmp_path / "s")
        write_pool(tmp_path / "p", 60, seed=2, noise=NOISE, shard_size=30)
        with pytest.raises(ScoresError, match="hold: 00000"):
            tiny_score(tmp_path / "p", tmp_path / "s")
        (tmp_path / "s" / "notes.txt").write_text("mine")
        manifest = tiny_score(tmp_path / "p", tmp_path / "s", overwrite=True)
        assert manifest.samples == 60
        assert (tmp_path / "s" / "notes.txt").read_text() == "mine"

    def test_only_shards_with_a_wrong_stamp_are_encoded_again(
        self, scored, pool, tmp_path, monkeypatch
    ):
        shutil.copytree(scored[0], tmp_path / "s")
        msgspec.structs.replace(scored[1], complete=False).write(tmp_path / "s")
        metadata = tmp_path / "s" / "embeddings" / "metadata" / "metadata_1.parquet"
        stamp = {"clipdre.encoded": "of other settings"}
        pq.write_table(pq.read_table(metadata).replace_schema_metadata(stamp), metadata)
        original, names = encoding_jobs.commit_shard, []

        def recording(found, shard, *args):
            names.append(shard.name)
            return original(found, shard, *args)

        monkeypatch.setattr(encoding_jobs, "commit_shard", recording)
        manifest = tiny_score(pool, tmp_path / "s")
        assert names == ["00001"]
        assert_same_scores(read_scores(tmp_path / "s", manifest), read_scores(*scored))

    @pytest.mark.parametrize("content", ['{"schema_version": 99}', None])
    def test_overwrite_replaces_a_damaged_manifest(self, tmp_path, content):
        write_tar(tmp_path / "a.tar", [*pair("a", seed=1), *pair("b", "blue star", seed=2)])
        tiny_score(tmp_path, tmp_path / "s")
        manifest = tmp_path / "s" / MANIFEST
        if content is None:
            content = manifest.read_text().replace('"complete": true', '"complete": "no"')
        manifest.write_text(content)
        with pytest.raises(ScoresError, match="score again with `overwrite`"):
            tiny_score(tmp_path, tmp_path / "s")
        assert tiny_score(tmp_path, tmp_path / "s", overwrite=True).complete
        assert read_manifest(tmp_path / "s").complete


@pytest.mark.filterwarnings("ignore:columns measured")
class TestReplacing:
    @pytest.fixture
    def replaced(self, tmp_path):
        """A pool that changed since it was scored, with a measured column and a note."""
        write_pool(tmp_path / "p", 60, seed=1, noise={}, shard_size=30)
        folder = ScoreFolder(tmp_path / "s")
        manifest = tiny_score(tmp_path / "p", folder.path)
        measure(folder, manifest, PromptWeight(prompt=("a circle",)))
        (folder.path / "notes.txt").write_text("mine")
        write_pool(tmp_path / "p", 60, seed=2, noise={}, shard_size=20)
        return tmp_path / "p", folder

    @pytest.fixture
    def expected(self, replaced, tmp_path):
        tiny_score(replaced[0], tmp_path / "new")
        return {**all_files(tmp_path / "new"), "notes.txt": b"mine"}

    def test_old_scores_stay_until_new_ones_are_complete(self, replaced, expected, monkeypatch):
        pool, folder = replaced
        before = all_files(folder.path)
        with monkeypatch.context() as patched:
            calls = stop_at_the_second(patched, encoding_jobs, "commit_shard")
            with (
                pytest.warns(UserWarning, match="removed with them: prompt-weight; measure them"),
                pytest.raises(KeyboardInterrupt),
            ):
                tiny_score(pool, folder.path, overwrite=True)
        found = all_files(folder.path)
        assert {name: found[name] for name in before} == before
        assert read_complete_manifest(folder.path).samples == 60
        with pytest.raises(ScoresError, match="2 shards that these `shards` do not hold"):
            tiny_score(pool, folder.path)
        with monkeypatch.context() as patched:
            calls = stop_at_the_second(patched, encoding_jobs, "commit_shard")
            calls.append("so that none stops")
            calls.append("so that none stops")
            tiny_score(pool, folder.path, overwrite=True)
        assert len(calls) == 4  # it resumed: two of three shards were left
        assert all_files(folder.path).keys() == expected.keys()
        assert all_files(folder.path)["manifest.json"] == expected["manifest.json"]

    def test_an_abandoned_replacement_is_started_over(self, replaced, monkeypatch):
        pool, folder = replaced
        with monkeypatch.context() as patched:
            stop_at_the_second(patched, encoding_jobs, "commit_shard")
            with pytest.raises(KeyboardInterrupt):
                tiny_score(pool, folder.path, overwrite=True)
        config = with_method(ReferenceMethod.EXACT)
        tiny_score(pool, folder.path, config, overwrite=True)
        assert read_complete_manifest(folder.path).settings["estimate"]["method"] == "exact"
        assert not folder.replacement.path.exists()

    def test_a_folder_of_the_users_is_no_replacement(self, replaced):
        pool, folder = replaced
        (folder.replacement.path / "scores").mkdir(parents=True)
        (folder.replacement.path / "scores" / "mine.txt").write_text("mine")
        before = all_files(folder.path)
        with pytest.raises(OutputError, match=r"replacement is not clipdre's"):
            tiny_score(pool, folder.path, overwrite=True)
        assert all_files(folder.path) == before

    def test_a_killed_exchange_is_finished(self, replaced, expected, tmp_path, monkeypatch):
        pool, folder = replaced
        old = all_files(folder.path)
        with monkeypatch.context() as patched:
            patched.setattr(ScoreFolder, "_exchange", lambda self, new: None)
            tiny_score(pool, folder.path, overwrite=True)
        for steps in range(40):
            copy = ScoreFolder(tmp_path / f"copy-{steps}")
            shutil.copytree(folder.path, copy.path)
            with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
                left = stop_after(patched, steps)
                copy.finish_replacement()
            found = all_files(copy.path)
            if read_manifest(copy.path).complete:  # it is the old run as it was, or the new one
                own = {name: data for name, data in found.items() if not name.startswith(".")}
                assert own == old or own.keys() == expected.keys()
            copy.finish_replacement()
            assert not copy.replacement.path.exists()
            assert all_files(copy.path).keys() == expected.keys()
            assert all_files(copy.path)["manifest.json"] == expected["manifest.json"]
            if left[0] > 0:
                break
        assert steps > 9

    def test_an_interrupted_first_run_is_resumed_in_place(self, pool, tmp_path, monkeypatch):
        with monkeypatch.context() as patched:
            stop_at_the_second(patched, encoding_jobs, "commit_shard")
            with pytest.raises(KeyboardInterrupt):
                tiny_score(pool, tmp_path / "s", overwrite=True)
        assert ScoreFolder(tmp_path / "s").embeddings.exists()
        tiny_score(pool, tmp_path / "s", overwrite=True)
        assert not ScoreFolder(tmp_path / "s").replacement.path.exists()

    def test_embeddings_are_discarded_by_a_second_run_too(self, scored, pool, tmp_path):
        shutil.copytree(scored[0], tmp_path / "s")
        tiny_score(pool, tmp_path / "s", discard_embeddings=True)
        assert not (tmp_path / "s" / "embeddings").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "web app"}'])
def test_overwrite_spares_a_folder_with_another_manifest(pool, tmp_path, content):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "mine.txt").write_text("mine")
    (tmp_path / MANIFEST).write_text(content)
    before = all_files(tmp_path)
    with pytest.raises(OutputError, match="is not a score folder, or its manifest is damaged"):
        tiny_score(pool, tmp_path, overwrite=True)
    assert all_files(tmp_path) == before


class TestInputsInTheOutput:
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_are_refused(self, scored, pool, tmp_path, overwrite):
        shutil.copytree(scored[0], tmp_path / "s")
        before = all_files(tmp_path / "s")
        config = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(tmp_path / "s")))
        with pytest.raises(OutputError, match="`reference` is in `output`"):
            tiny_score(pool, tmp_path / "s", config, overwrite=overwrite)
        layout = find_layout(tmp_path / "s" / "embeddings", "l14")
        source, run = EmbeddingSource(layout, scored[1].model), RunConfig(overwrite=overwrite)
        with pytest.raises(OutputError, match="the input is in `output`"):
            score_embeddings(source, tmp_path / "s", EstimateConfig(), run=run)
        for part in ("scores", ".replacement/x"):
            (tmp_path / "s" / part).mkdir(parents=True, exist_ok=True)
            tar = shutil.copy(next(pool.glob("*.tar")), tmp_path / "s" / part)
            with pytest.raises(OutputError, match="the input is in `output`"):
                tiny_score(tar, tmp_path / "s", overwrite=overwrite)
        after = all_files(tmp_path / "s")
        assert {name: after[name] for name in before} == before


def stop_after(monkeypatch, steps):
    """Raise KeyboardInterrupt in a change of files; return a list with the steps left."""
    left = [steps]

    def stopping(change):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return change(*args, **kwargs)

        return call

    def one_file_less(path, **kwargs):
        files = sorted(p for p in Path(path).rglob("*") if p.is_file())
        if left[0] == 0 and files:
            files[0].unlink()
        stopping(remove)(path, **kwargs)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", one_file_less)
    for name in ("rename", "replace", "touch"):
        monkeypatch.setattr(Path, name, stopping(getattr(Path, name)))
    return left


@pytest.fixture(scope="module", params=[ReferenceMethod.EXACT, ReferenceMethod.STRATIFIED])
def finished(request, pool, tmp_path_factory):
    """A finished run, exact or stratified, and its configuration."""
    folder = tmp_path_factory.mktemp("finished") / "scores"
    config = with_method(request.param, neighbors=40, bulk=64)
    return folder, tiny_score(pool, folder, config), config


@pytest.fixture
def never_encode(monkeypatch):
    monkeypatch.setattr(encoding_jobs, "ShardEncoder", None)


def without_samples(manifest):
    """The manifest of shards that were encoded by a clipdre that took no samples."""
    shards = (msgspec.structs.replace(shard, sample="") for shard in manifest.shards)
    return msgspec.structs.replace(manifest, shards=tuple(shards))


@pytest.mark.usefixtures("never_encode")
class TestSchema1:
    """Folders of clipdre 0.1."""

    def test_a_finished_folder_is_returned_as_it_is(self, finished, pool, tmp_path, monkeypatch):
        folder, manifest, config = finished
        shutil.copytree(folder, tmp_path / "old")
        downgrade(tmp_path / "old")
        before = all_files(tmp_path / "old")
        assert "reference/pool_img.npy" in before
        monkeypatch.setattr(estimating_jobs, "estimate_rows", None)
        assert tiny_score(pool, tmp_path / "old", config) == manifest
        assert all_files(tmp_path / "old") == before

    def test_other_estimates_need_no_encoding(self, finished, pool, tmp_path):
        shutil.copytree(finished[0], tmp_path / "old")
        downgrade(tmp_path / "old")
        manifest = tiny_score(pool, tmp_path / "old", with_method(ReferenceMethod.SAMPLE, bulk=64))
        assert manifest.reference.method == "sample"
        assert read_manifest(tmp_path / "old") == manifest

    def test_an_unfinished_folder_resumes_without_encoding(self, finished, pool, tmp_path):
        folder, manifest, config = finished
        shutil.copytree(folder, tmp_path / "old")
        downgrade(tmp_path / "old", complete=False)
        for name in ("00001", "00002"):
            (tmp_path / "old" / "scores" / f"{name}.parquet").unlink()
        manifest = without_samples(manifest)
        assert tiny_score(pool, tmp_path / "old", config) == manifest
        assert read_manifest(tmp_path / "old") == manifest
        found, expected = (read_scores(f, manifest) for f in (tmp_path / "old", folder))
        assert_same_scores(found, expected, atol=1e-6)

    def test_an_unfinished_folder_without_a_reference_resumes(self, finished, pool, tmp_path):
        folder, manifest, config = finished
        shutil.copytree(folder, tmp_path / "old")
        downgrade(tmp_path / "old", complete=False)
        (tmp_path / "old" / "reference" / "reference.json").unlink()
        shutil.rmtree(tmp_path / "old" / "scores")
        assert tiny_score(pool, tmp_path / "old", config) == without_samples(manifest)
        found, expected = (read_scores(f, manifest) for f in (tmp_path / "old", folder))
        assert_same_scores(found, expected, atol=1e-6)


def test_saved_references_of_schema_1_are_used(finished, pool, tmp_path):
    folder, manifest, _ = finished
    shutil.copytree(folder, tmp_path / "old")
    downgrade(tmp_path / "old")
    saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(tmp_path / "old")))
    found = tiny_score(pool, tmp_path / "new", saved)
    assert found.reference == manifest.reference
    assert_same_scores(read_scores(tmp_path / "new", found), read_scores(folder, manifest))


@pytest.fixture
def definition(tmp_path):
    """The embedded model as a folder, and a function that changes its preprocessing."""
    folder = tmp_path / "model"
    shutil.copytree(resources.files("clipdre") / "tiny", folder)
    path = folder / "open_clip_config.json"

    def change(**settings):
        config = json.loads(path.read_text())
        config["model_cfg"].update(settings)
        path.write_text(json.dumps(config))

    encode = dataclasses.replace(TINY.encode, model=f"local-dir:{folder}")
    return dataclasses.replace(TINY, encode=encode), change


class TestChangedDefinition:
    """The same weights, read in another way."""

    def test_a_finished_run_is_refused(self, pool, tmp_path, definition):
        config, change = definition
        tiny_score(pool, tmp_path / "s", config)
        before = all_files(tmp_path / "s")
        change(quick_gelu=True)
        with pytest.raises(
            ScoresError, match=r"differs in model definition .the same weights gave"
        ):
            tiny_score(pool, tmp_path / "s", config)
        assert all_files(tmp_path / "s") == before

    def test_a_saved_reference_is_refused(self, pool, tmp_path, definition):
        config, change = definition
        tiny_score(pool, tmp_path / "s", config)
        change(quick_gelu=True)
        saved = dataclasses.replace(config, estimate=EstimateConfig(saved=str(tmp_path / "s")))
        with pytest.raises(ScoresError, match="another definition of the model"):
            tiny_score(pool, tmp_path / "new", saved)
        assert not (tmp_path / "new").exists()

    def test_overwriting_scores_again_with_the_new_definition(self, pool, tmp_path, definition):
        config, change = definition
        before = tiny_score(pool, tmp_path / "s", config)
        old = read_scores(tmp_path / "s", before)["log_ratio"].to_numpy()
        change(quick_gelu=True)
        now = tiny_score(pool, tmp_path / "s", config, overwrite=True)
        assert now.reference.digest != before.reference.digest
        new = read_scores(tmp_path / "s", now)["log_ratio"].to_numpy()
        assert np.abs(new - old).max() > 0.1

    def test_measuring_with_the_model_is_refused(self, pool, tmp_path, definition):
        config, change = definition
        manifest = tiny_score(pool, tmp_path / "s", config)
        reader = PoolReader(ScoreFolder(tmp_path / "s"), manifest, "cpu")
        change(quick_gelu=True)
        with pytest.raises(ModelError, match="has changed since it made the scores, in definition"):
            _ = reader.encoder


@pytest.fixture
def unrecorded(pool, tmp_path, monkeypatch):
    """A run as made by a clipdre that recorded weights only."""
    with monkeypatch.context() as patched:
        patched.setattr("clipdre.models.load.fingerprint", lambda *_: ())
        manifest = tiny_score(pool, tmp_path / "s")
    raw = (tmp_path / "s" / MANIFEST).read_text()
    assert "fingerprint" not in json.dumps(json.loads(raw)["model"])
    assert "activation" not in raw
    return tmp_path / "s", manifest


class TestUnrecordedDefinition:
    def test_stamps_are_those_of_before(self, unrecorded, pool):
        folder, manifest = unrecorded
        raw = json.loads((folder / MANIFEST).read_text())
        shard = raw["shards"][0]
        decided_by = {
            "model": raw["model"],
            "read": raw["settings"]["read"],
            "shard": [shard["name"], shard["nbytes"], shard["modified"]],
        }
        digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
        (file, *_) = embedding_files(folder / "embeddings", len(manifest.shards))
        assert file.stamp()["clipdre.encoded"] == digest

    def test_a_finished_run_is_kept_with_a_warning(self, unrecorded, pool):
        folder, manifest = unrecorded
        before = all_files(folder)
        with pytest.warns(UserWarning, match="recorded only the weights of clipdre-tiny"):
            assert tiny_score(pool, folder) == manifest
        assert all_files(folder) == before

    @pytest.mark.filterwarnings("ignore:.*recorded only the weights")
    def test_an_unfinished_run_resumes_without_encoding(self, unrecorded, pool, never_encode):
        folder, manifest = unrecorded
        msgspec.structs.replace(manifest, complete=False).write(folder)
        assert tiny_score(pool, folder) == manifest

    def test_another_activation_is_noticed_all_the_same(self, unrecorded, pool, monkeypatch):
        monkeypatch.setattr("clipdre.models.load.needs_quick_gelu", lambda *_: True)
        with pytest.raises(ScoresError, match=r"model activation .as defined then, quick_gelu now"):
            tiny_score(pool, unrecorded[0])
        saved = dataclasses.replace(TINY, estimate=EstimateConfig(saved=str(unrecorded[0])))
        with pytest.raises(ScoresError, match="its model differs in activation"):
            tiny_score(pool, unrecorded[0].parent / "new", saved)
