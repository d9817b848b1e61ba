"""Whole runs on a Ray cluster: the same results as on this machine, whatever is lost."""

import multiprocessing
import os
import shutil
import signal
import threading
import time

import pytest

from clipdre.config import EngineConfig, EngineName, MeasureConfig
from clipdre.encoding import jobs as encoding_jobs
from clipdre.encoding.jobs import EncodeWork
from clipdre.engines.local import InProcess
from clipdre.errors import ModelError
from clipdre.estimating import reference
from clipdre.formats.folders.columns import ColumnFolder
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_manifest
from clipdre.models.load import load_encoder
from clipdre.pipelines.measure import measure
from clipdre.slices import Slice
from tests.clusters_of_ray import RAY, cluster_of, kill_raylet, on
from tests.helpers import TINY, tiny_score
from tests.pipelines import toys
from tests.pipelines.scoring import assert_same_folder

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'clipdre[ray]'")
pytestmark = RAY
SHARDS = 24


@pytest.fixture
def each_alone(monkeypatch):
    """Hand out shards one by one, however small."""
    monkeypatch.setattr(encoding_jobs, "TOGETHER", 0)


def encoded(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("embeddings/metadata/m*")}


@pytest.fixture
def built_on(monkeypatch):
    """Hand out the passes that build a reference, however small the pool; say to which engine."""
    engines = []

    def recorded(engine, pairs):
        engines.append(type(engine).__name__)
        return engine

    monkeypatch.setattr(reference, "engine_for", recorded)
    return engines


def test_a_cluster_gives_what_one_machine_gives(
    cluster, many, unbroken, tmp_path, each_alone, built_on
):
    tiny_score(many, tmp_path / "s", slice=Slice(1, 3))  # slices and engines mix
    before = encoded(tmp_path / "s")
    tiny_score(many, tmp_path / "s", engine=on(cluster))
    assert before.items() <= encoded(tmp_path / "s").items()
    assert_same_folder(tmp_path / "s", unbroken)
    assert "RayEngine" in built_on
    values = []
    for config in (
        MeasureConfig(device="cpu"),
        MeasureConfig(device="cpu", engine=on(cluster)),
    ):
        folder = ScoreFolder(tmp_path / "s")
        measure(folder, read_manifest(tmp_path / "s"), toys.Centred(), config)
        columns = ColumnFolder(folder.columns / "centred")
        files = [columns.file(shard.name) for shard in unbroken[1].shards]
        values.append([file.read_bytes() for file in files])
        shutil.rmtree(columns.path)
    assert values[0] == values[1]


def test_a_node_killed_while_it_encodes_loses_nothing(many, unbroken, tmp_path, each_alone):
    with cluster_of(2) as cluster:

        def kill():
            while len(encoded(tmp_path / "s")) < 3:
                time.sleep(0.005)
            kill_raylet(cluster.worker_nodes.copy().pop())

        killer = threading.Thread(target=kill)
        killer.start()
        tiny_score(many, tmp_path / "s", engine=on(cluster))
        killer.join()
        assert_same_folder(tmp_path / "s", unbroken)


def score_in_a_process(many, output, address):
    encoding_jobs.TOGETHER = 0
    tiny_score(many, output, engine=EngineConfig(EngineName.RAY, address))


def test_after_driver_and_node_were_killed_the_next_run_does_the_rest(
    many, unbroken, tmp_path, each_alone
):
    with cluster_of(2) as cluster:
        driver = multiprocessing.get_context("spawn").Process(
            target=score_in_a_process, args=(many, tmp_path / "s", cluster.address)
        )
        driver.start()
        while len(encoded(tmp_path / "s")) < 4:
            assert driver.is_alive()
            time.sleep(0.005)
        os.kill(driver.pid, signal.SIGKILL)
        kill_raylet(cluster.worker_nodes.copy().pop())
        driver.join()
        time.sleep(3)  # the workers of a lost driver end
        before = encoded(tmp_path / "s")
        assert 4 <= len(before) < SHARDS
        tiny_score(many, tmp_path / "s", engine=on(cluster))
        assert before.items() <= encoded(tmp_path / "s").items()
        assert_same_folder(tmp_path / "s", unbroken)


def test_another_model_on_a_worker_is_named():
    record = load_encoder(TINY.encode).record
    import msgspec

    other = msgspec.structs.replace(record, digest="another")
    work = EncodeWork(TINY.read, TINY.encode, expected=other)
    with pytest.raises(ModelError, match=r"on node \S+, model clipdre-tiny differs in digest"):
        list(InProcess("cpu").run(work, [[]], lambda *_: None))
