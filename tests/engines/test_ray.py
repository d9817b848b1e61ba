"""The engine of a Ray cluster: results, errors, and what is lost when a node is."""

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipdre.errors import InputError, ModelError, OutputError, UsageError
from tests.clusters_of_ray import RAY, cluster_of, kill_raylet
from tests.engines.test_local import Doubling, most_ahead

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'clipdre[ray]'")

from clipdre.engines import nodes  # noqa: E402
from clipdre.engines import ray as engines  # noqa: E402 (after the check for Ray)

pytestmark = RAY


@pytest.fixture
def engine(cluster):
    return engines.connect(cluster.address, None, "auto", ("cpu",))


@dataclass(frozen=True)
class Slow:
    """Waits, and writes down that it did an item, and where."""

    folder: Path
    seconds: float = 0.3
    deadly: int | None = None

    def start(self, device, advance):
        def do(item):
            if item == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / f"{item}-begun-{os.getpid()}").touch()
            time.sleep(self.seconds)
            (self.folder / f"{item}-done-{os.getpid()}").touch()
            return ray.get_runtime_context().get_node_id()

        return do


def test_one_actor_for_each_node(engine):
    assert (engine.devices, engine.device) == (("cpu",), "cpu")
    assert (engine.gpus, engine.cpus, engine.workers) == (False, 1, 2)


def test_every_item_is_done_once_and_progress_adds_up(engine):
    reported, items = [], list(range(10, 30))
    found = list(engine.run(Doubling(), items, lambda *report: reported.append(report)))
    assert sorted(found) == [(index, 2 * item) for index, item in enumerate(items)]
    assert [sum(column) for column in zip(*reported, strict=True)] == [sum(items), len(items), 5]


def test_no_items_start_nothing(engine):
    assert list(engine.run(Doubling(unusable="cpu"), [], lambda *_: None)) == []


def test_an_error_keeps_its_problem_and_cure(engine):
    with pytest.raises(InputError, match="item 3 is bad: remove it") as caught:
        list(engine.run(Doubling(fails_at=3), [1, 2, 3], lambda *_: None))
    assert caught.value.cure == "remove it"
    with pytest.raises(ModelError, match="no device cpu: choose another"):
        list(engine.run(Doubling(unusable="cpu"), [1], lambda *_: None))


def test_both_nodes_work_and_take_the_next_item_when_they_are_done(engine, tmp_path):
    found = list(engine.run(Slow(tmp_path, 0.1), list(range(12)), lambda *_: None))
    assert len({node for _, node in found}) == 2


def test_an_item_that_kills_its_workers_ends_the_run(engine, tmp_path):
    with pytest.raises(ModelError, match=r"workers died 4 times.*it resumes"):
        list(engine.run(Slow(tmp_path, 0.0, deadly=2), [1, 2, 3], lambda *_: None))


def test_items_are_taken_as_workers_need_them(engine):
    ahead = list(most_ahead(engine, 40))
    assert len(ahead) == 40
    # One more is at hand: it says whether there are any.
    assert max(ahead) <= engine.workers * engines.IN_FLIGHT + 1


@dataclass(frozen=True)
class Where:
    """Finds the folder that relative paths start from."""

    def start(self, device, advance):
        return lambda _: Path.cwd()


def test_relative_paths_mean_the_same_on_all_nodes(engine, tmp_path, monkeypatch):
    list(engine.run(Doubling(), [1], lambda *_: None))  # this actor has been elsewhere
    monkeypatch.chdir(tmp_path)
    found = list(engine.run(Where(), list(range(4)), lambda *_: None))
    assert {folder for _, folder in found} == {tmp_path}


def test_actors_that_are_done_do_the_next_work(engine, tmp_path):
    for _ in range(3):
        list(engine.run(Slow(tmp_path, 0.1), list(range(8)), lambda *_: None))
    assert len({path.name.split("-")[2] for path in tmp_path.iterdir()}) <= 2


def test_actors_end_when_nobody_wants_more(engine, tmp_path):
    results = engine.run(Slow(tmp_path, 0.1), list(range(50)), lambda *_: None)
    next(results)
    results.close()
    time.sleep(1)
    begun = len(list(tmp_path.iterdir()))
    time.sleep(1)
    assert len(list(tmp_path.iterdir())) == begun < 50


class TestNodes:
    def test_equal_nodes_that_see_everything_are_accepted(self, engine, tmp_path):
        nodes.check_nodes(False, 1, [tmp_path])

    def test_a_place_that_a_node_does_not_see_is_named(self, engine, tmp_path):
        gone = tmp_path / "gone.tar"
        with pytest.raises(OutputError, match=rf"node \S+ \(.*\) does not see {gone}: use a file"):
            nodes.check_nodes(False, 1, [tmp_path, gone])

    def test_other_versions_are_named(self, engine, monkeypatch):
        monkeypatch.setattr(nodes, "__version__", "99.0")
        with pytest.raises(ModelError, match=r"node \S+ \(.*\) has clipdre \S+, this machine 99"):
            nodes.check_nodes(False, 1, [])

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ((2, "auto"), "no node of the cluster has 2 CPUs: use a smaller `cpus_per_worker`"),
            ((None, "cuda"), "no node of the cluster has a GPU"),
            ((None, "cuda:1"), "`device` cuda:1 is not for a cluster: use auto, cpu or cuda"),
        ],
    )
    def test_what_no_node_can_do_is_refused(self, cluster, arguments, problem):
        with pytest.raises((ModelError, UsageError), match=problem):
            engines.connect(cluster.address, *arguments, ("cpu",))


def test_an_address_of_another_cluster_is_not_taken_for_the_one_that_is_joined(engine):
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            UsageError, match=rf"is connected to the Ray cluster at \S+, not to {place}"
        ):
            engines.connect(place, None, "auto", ("cpu",))
    with pytest.raises(ModelError, match=f"no Ray cluster at {place}"):
        engines.connect(place, None, "auto", ("cpu",))


def test_a_node_killed_in_mid_run_loses_nothing(tmp_path):
    with cluster_of(2) as cluster:
        engine = engines.connect(cluster.address, None, "cpu", ("cpu",))
        (victim, _) = cluster.worker_nodes

        def kill():
            while len(list(tmp_path.glob("*-done-*"))) < 4:
                time.sleep(0.02)
            kill_raylet(victim)

        killer = threading.Thread(target=kill)
        killer.start()
        found = list(engine.run(Slow(tmp_path), list(range(20)), lambda *_: None))
        killer.join()
        assert sorted(index for index, _ in found) == list(range(20))
        assert len({node for _, node in found}) == 2
        late = [node for _, node in found[-5:]]
        assert victim.node_id not in late
        done = [path.name.split("-")[0] for path in tmp_path.glob("*-done-*")]
        assert len(done) - len(set(done)) <= engines.IN_FLIGHT  # the lost ones
        # The actor that has no node to run on must not be asked to do the next work.
        assert len(list(engine.run(Slow(tmp_path), [20], lambda *_: None))) == 1
        kill_raylet(next(node for node in cluster.worker_nodes if node is not victim))
        with pytest.raises(ModelError, match=r"the cluster has lost all nodes.*it resumes"):
            list(engine.run(Slow(tmp_path), [1], lambda *_: None))


class TestAddress:
    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch):
        monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def test_where_nobody_answers(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ModelError, match=f"no Ray cluster at {place} .*'ray start --head'"):
            engines.connect(place, None, "auto", ("cpu",))

    @pytest.mark.parametrize("place", ["nonsense", "127.0.0.1:many", "127.0.0.1:70000"])
    def test_that_makes_no_sense(self, place):
        with pytest.raises(ModelError, match=f"no Ray cluster at {place}"):
            engines.connect(place, None, "auto", ("cpu",))

    def test_of_a_client(self):
        with pytest.raises(UsageError, match="is of Ray's client: start the command on a node"):
            engines.connect("ray://127.0.0.1:10001", None, "auto", ("cpu",))

    def test_where_ray_does_not_start(self, monkeypatch):
        """Signals stay with those who handled them: Ray takes some for itself."""

        def init(**_):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise RuntimeError("Version mismatch: this one and that one\nand more")

        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(ray, "init", init)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(ModelError, match=r"at this machine \(Version mismatch.*one\): check"):
            engines.connect(None, None, "auto", ("cpu",))
        assert signal.getsignal(signal.SIGTERM) == before

    def test_without_ray(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "ray", None)
        with pytest.raises(ModelError, match=r"`engine` ray needs Ray .*pip install 'clipdre\[ray"):
            engines.connect(None, None, "auto", ("cpu",))
