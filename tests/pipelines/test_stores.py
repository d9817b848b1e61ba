"""Score folders in stores: whatever is killed, and on whichever machine the next run is."""

from dataclasses import replace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipdre
from clipdre import training
from clipdre.config import EstimateConfig, ReadConfig, RunConfig
from clipdre.errors import OutputError, ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest, read_manifest
from clipdre.formats.folders.working_copy import local_copy
from clipdre.formats.tars.places import expand_shards
from clipdre.pipelines import engine
from clipdre.pipelines.measure import measure, measure_slice
from clipdre.pipelines.score import score
from clipdre.scorers.registry import find_scorer
from clipdre.slices import Slice
from clipdre.truth.pool import write_pool
from tests.helpers import TINY, all_files

URL = "memory://bucket/scores"
CHANGES = ("put_file", "pipe_file", "cp_file", "rm_file")


class Killed(BaseException):
    """As if the process had been killed."""


class Store:
    """The objects below `URL`, and a way to kill a run at its n-th change of them."""

    def __init__(self, monkeypatch):
        self.files, self._patch = fsspec.filesystem("memory"), monkeypatch

    def content(self):
        paths = self.files.find("/bucket/scores")
        return {p.removeprefix("/bucket/scores/"): self.files.cat_file(p) for p in paths}

    def kill_at(self, change):
        """Let every change from this one on fail; return how many there were."""
        made = []

        def counted(method):
            def call(*args, **options):
                made.append(method.__name__)
                if len(made) >= change:
                    raise Killed
                return method(*args, **options)

            return call

        self._patch.undo()
        self._patch.setattr(engine, "PAUSE", 0.0)
        self._patch.setattr(engine, "REST", 0.0)
        for name in CHANGES:
            self._patch.setattr(type(self.files), name, counted(getattr(type(self.files), name)))
        return made


@pytest.fixture
def store(monkeypatch):
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield Store(monkeypatch)
    monkeypatch.undo()
    files.store.clear()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """30 pairs in three shards."""
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, 30, seed=5, noise={}, shard_size=10)
    return folder


@pytest.fixture(scope="module")
def part(pool, tmp_path_factory):
    """The first two shards of `pool`."""
    folder = tmp_path_factory.mktemp("part")
    for path in sorted(pool.glob("*.tar"))[:2]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def local(pool, tmp_path_factory):
    """The files of an unbroken local run over `pool`."""
    folder = tmp_path_factory.mktemp("local") / "scores"
    run(pool, folder)
    return all_files(folder)


def run(pool, place, scratch=None, **options):
    """Score on a machine with this scratch folder."""
    shards = sorted(map(str, (path.resolve() for path in pool.glob("*.tar"))))
    return score(expand_shards(shards), local_copy(place, scratch), TINY, RunConfig(**options))


def assert_same(found, expected):
    """The same files, and the same scores up to what the size of batches changes."""
    assert found.keys() == expected.keys()
    for name in expected:
        if name.startswith("scores/"):
            ours, theirs = (
                pq.read_table(pa.BufferReader(each[name])) for each in (found, expected)
            )
            assert ours["key"].equals(theirs["key"])
            for column in ("similarity", "log_ratio", "kl_text"):
                np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("change", [3, 20])
def test_killed_run_resumes_on_another_machine(store, pool, local, tmp_path, change):
    store.kill_at(change)
    with pytest.raises(Killed):
        run(pool, URL, tmp_path / "a")
    begun = store.content()
    with pytest.raises(ScoresError, match=r"unfinished|not a score folder"):
        clipdre.open_scores(URL, scratch=tmp_path / "reader")
    store.kill_at(10_000)
    run(pool, URL, tmp_path / "b")
    found = store.content()
    assert_same(found, local)
    encoded = [name for name in begun if "/metadata/" in name]
    assert all(begun[name] == found[name] for name in encoded)
    assert change == 3 or encoded


@pytest.mark.parametrize(
    ("way", "change"), [("grown", 45), ("overwritten", 60), ("overwritten", 90)]
)
def test_replaced_scores_are_old_or_new_never_both(store, part, pool, local, tmp_path, way, change):
    run(part, URL, tmp_path / "a")
    old = store.content()
    changes = store.kill_at(change)
    with pytest.raises(Killed):
        run(pool, URL, tmp_path / "a", overwrite=way == "overwritten")
    assert len(changes) >= change
    manifest = read_manifest(local_copy(URL, tmp_path / "reader"))
    if manifest.complete:
        expected, found = old if manifest.rows == 20 else local, store.content()
        assert_same({name: found[name] for name in expected}, expected)
    store.kill_at(10_000)
    run(pool, URL, tmp_path / "b")
    assert_same(store.content(), local)


def test_working_copy_that_was_overtaken_is_not_mixed_in(store, part, pool, local, tmp_path):
    store.kill_at(15)
    with pytest.raises(Killed):
        run(part, URL, tmp_path / "a")
    store.kill_at(10_000)
    run(pool, URL, tmp_path / "b", overwrite=True)
    run(pool, URL, tmp_path / "a")
    assert_same(store.content(), local)


def test_run_stops_if_another_one_takes_its_place(store, part, pool, tmp_path, monkeypatch):
    store.kill_at(10_000)
    begin = engine.Followed.run

    def overtaken(self, work, items, advance):
        monkeypatch.setattr(engine.Followed, "run", begin)
        run(pool, URL, tmp_path / "b", overwrite=True)
        return begin(self, work, items, advance)

    monkeypatch.setattr(engine.Followed, "run", overtaken)
    with pytest.raises(OutputError, match=f"another run has replaced the scores in {URL}"):
        run(part, URL, tmp_path / "a")
    assert read_complete_manifest(local_copy(URL, tmp_path / "c")).rows == 30


def test_slices_with_scratches_of_their_own_end_like_local_ones(store, pool, tmp_path):
    store.kill_at(10_000)
    run(pool, URL, tmp_path / "1", slice=Slice(1, 3))
    changes = store.kill_at(3)
    with pytest.raises(Killed):
        run(pool, URL, tmp_path / "2", slice=Slice(2, 3))
    assert len(changes) >= 3
    store.kill_at(10_000)
    run(pool, URL, tmp_path / "3", slice=Slice(3, 3))
    vectors = [path.name for path in (tmp_path / "3").rglob("*.npy")]
    assert sorted(vectors) == ["img_emb_2.npy", "text_emb_2.npy"]
    run(pool, URL, tmp_path / "4")
    for part in (Slice(1, 3), Slice(2, 3), Slice(3, 3), None):
        run(pool, tmp_path / "local", slice=part)
    assert store.content() == all_files(tmp_path / "local")


def test_unfinished_run_of_other_options_is_not_taken_for_a_failed_try(store, pool, tmp_path):
    run(pool, URL, tmp_path / "1", slice=Slice(1, 2))
    begun = store.content()
    config = replace(TINY, read=ReadConfig(max_pixels=10**6))
    with pytest.raises(ScoresError, match=f"{URL} holds a run that differs in read max_pixels"):
        score(expand_shards([str(pool)]), local_copy(URL, tmp_path / "2"), config, RunConfig())
    assert store.content() == begun


def test_slices_of_another_plan_are_refused(store, pool, part, tmp_path):
    run(pool, URL, tmp_path / "1", slice=Slice(1, 2))
    with pytest.raises(ScoresError, match=f"{URL} .*give each slice the same shards"):
        run(part, URL, tmp_path / "2", slice=Slice(2, 2))


def test_measured_columns_are_those_of_a_local_run(store, pool, tmp_path):
    scorer = find_scorer("semantic-duplicates")()
    run(pool, tmp_path / "scores")
    folder = ScoreFolder(tmp_path / "scores")
    record = measure(folder, read_complete_manifest(folder.path), scorer)
    run(pool, URL, tmp_path / "0")
    for turn in range(2):
        for part in (Slice(1, 2), Slice(2, 2)):
            place = local_copy(URL, tmp_path / f"{turn} {part.index}")
            measure_slice(ScoreFolder(place), read_complete_manifest(place), scorer, part)
    place = local_copy(URL, tmp_path / "plain")
    found = measure(ScoreFolder(place), read_complete_manifest(place), scorer)
    assert found == record
    assert store.content() == all_files(tmp_path / "scores")


def test_discarded_embeddings_are_gone_from_the_store(store, pool, local, tmp_path):
    run(pool, URL, tmp_path / "a")
    run(pool, URL, tmp_path / "b", discard_embeddings=True)
    assert store.content() == {n: v for n, v in local.items() if not n.startswith("embeddings/")}
    with pytest.raises(ScoresError, match=f"{URL} keeps no embeddings"):
        clipdre.score_embeddings(URL, "memory://bucket/again", scratch=tmp_path / "c")


def test_saved_reference_in_a_store(store, part, pool, tmp_path):
    run(part, URL, tmp_path / "a")
    config = replace(TINY, estimate=EstimateConfig(saved=URL))
    shards = expand_shards([str(pool)])
    there = score(shards, local_copy("memory://bucket/new", tmp_path / "b"), config, RunConfig())
    again = score(shards, local_copy("memory://bucket/new", tmp_path / "c"), config, RunConfig())
    assert there == again
    assert there.reference.pairs == 20


def test_python_reads_without_the_vectors(store, pool, tmp_path):
    run(pool, URL, tmp_path / "a")
    scores = clipdre.open_scores(URL, scratch=tmp_path / "b")
    assert repr(scores) == f"Scores('{URL}': 30 pairs of 3 shards, clipdre-tiny)"
    data = training.dataset(scores, columns="log_ratio", shuffle=0)
    assert [sample["log_ratio"] for sample in data] == scores.to_arrow()["log_ratio"].to_pylist()
    assert not list(tmp_path.glob("b/**/*.npy"))
    assert clipdre.look(scores, thumbnails=0).title == f"clipdre look: {URL}"
