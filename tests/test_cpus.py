import os
import subprocess
import sys

import pytest

from clipdre import cpus
from clipdre.cpus import limit_threads, usable_cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 processors, with the given files of cgroups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "OWN_CGROUPS", tmp_path / "own")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(content)

    return write


V1 = "5:cpuset:/docker/7\n4:cpu,cpuacct:/docker/7\n0::/\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "400000 100000"}, 4),
        ("0::/job\n", {"job/cpu.max": "150000 100000"}, 2),
        ("0::/job\n", {"job/cpu.max": "5000 100000"}, 1),
        ("0::/job\n", {"job/cpu.max": "nonsense"}, 64),
        ("0::/job\n", {"job/cpu.max": "9900000 100000"}, 64),
        (V1, {f"cpu,cpuacct/docker/7/{QUOTA}": "-1", f"cpu,cpuacct/docker/7/{PERIOD}": "9"}, 64),
        (V1, {f"cpu,cpuacct/docker/7/{QUOTA}": "300", f"cpu,cpuacct/docker/7/{PERIOD}": "100"}, 3),
        (V1, {f"cpu/{QUOTA}": "800000", f"cpu/{PERIOD}": "100000"}, 8),  # as a container sees it
    ],
)
def test_quotas_are_respected(machine, own, files, expected):
    machine(own, files)
    assert usable_cpus() == expected


def test_without_cgroups_affinity_decides(machine, monkeypatch):
    assert usable_cpus() == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert usable_cpus() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cpus() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1


@pytest.mark.parametrize(("given", "expected"), [(None, "2"), ("1", "1"), ("7", "7")])
def test_threads_are_limited_unless_the_user_did(machine, monkeypatch, given, expected):
    machine("0::/\n", {"cpu.max": "200000 100000"})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == expected


def test_all_libraries_start_no_more_threads(tmp_path):
    """Counted where they are all loaded, in a process that may use one processor."""
    code = """
import os
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from clipdre.cpus import limit_threads
limit_threads()
import faiss, pyarrow, torch
from clipdre.sql.database import Database
((duckdb,),) = Database([], 10).fetchall("SELECT current_setting('threads')")
print(torch.get_num_threads(), faiss.omp_get_max_threads(), pyarrow.cpu_count(), duckdb)
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.split() == ["1", "1", "1", "1"]
