"""Subsets written on a Ray cluster: the same bytes as on this machine, whatever is lost."""

import threading
import time
from dataclasses import replace

import pytest

import clipdre
from clipdre.config import EmitConfig
from clipdre.emitting.write import write_subset
from clipdre.slices import Slice
from tests.clusters_of_ray import RAY, cluster_of, kill_raylet, on
from tests.emitting.contents import contents
from tests.helpers import chosen

pytest.importorskip("ray", reason="needs Ray: pip install 'clipdre[ray]'")
pytestmark = RAY


@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_a_cluster_writes_what_one_machine_writes(cluster, scored, tmp_path, shuffle_seed):
    """Slices and engines mix."""
    selection = chosen(scored, by="kl_text", top=95)
    here = EmitConfig(10, shuffle_seed=shuffle_seed)
    there = replace(here, engine=on(cluster))
    whole = write_subset(selection, tmp_path / "whole", config=here)
    part = replace(here, slice=Slice(1, 3))
    assert write_subset(selection, tmp_path / "kept", config=part).kept == 35
    assert write_subset(selection, tmp_path / "kept", config=there).summary == whole.summary
    assert contents(tmp_path / "kept") == contents(tmp_path / "whole")


def test_shared_keys_under_a_relative_path(cluster, colliding, tmp_path, monkeypatch):
    """In a folder where the cluster was not started."""
    monkeypatch.chdir(tmp_path)
    scores = clipdre.open_scores("s")
    every = clipdre.select(scores, where="true")
    clipdre.emit(every, "whole", shard_size=2)
    found = clipdre.emit(every, "kept", shard_size=2, engine="ray", address=cluster.address)
    assert found.renamed == 4
    assert contents(tmp_path / "kept") == contents(tmp_path / "whole")


def test_a_node_killed_while_it_writes_loses_nothing(scored, tmp_path):
    selection, shards = chosen(scored), 100
    write_subset(selection, tmp_path / "whole", config=EmitConfig(3))
    kept, at_the_kill = tmp_path / "kept", []
    with cluster_of(2) as cluster:

        def kill():
            while len(list(kept.glob("*.tar"))) < 5:
                time.sleep(0.005)
            kill_raylet(cluster.worker_nodes.copy().pop())
            (kept / ".unfinished-elsewhere-1-0badf00d-00000003.tar").touch()  # as one may leave it
            at_the_kill.append(len(list(kept.glob("*.tar"))))

        killer = threading.Thread(target=kill)
        killer.start()
        write_subset(selection, kept, config=EmitConfig(3, engine=on(cluster)))
        killer.join()
    assert at_the_kill[0] < shards
    assert contents(kept) == contents(tmp_path / "whole")
