"""Runs that are killed, interrupted or short of something."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipdre.truth.pool import write_pool

CLIPDRE = Path(sys.executable).parent / "clipdre"
ROOT = Path(__file__).parents[1]
TINY = ["--model", "clipdre-tiny", "--device", "cpu", "--batch-size", "16"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A pool that takes a while to score."""
    folder = tmp_path_factory.mktemp("large")
    write_pool(folder, 4000, seed=2, noise={}, shard_size=100)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_within_a_second(large, tmp_path, number):
    command = [str(CLIPDRE), "score", str(large), "-o", str(tmp_path / "s"), *TINY]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(list((tmp_path / "s").glob("embeddings/metadata/metadata_*"))) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        begin = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        took = time.monotonic() - begin
    assert process.returncode == 128 + number
    assert said.endswith("interrupted; the same command goes on where it was\n")
    assert "Traceback" not in said
    assert took < 5  # a second, and what a busy machine adds
    assert not list((tmp_path / "s").rglob(".unfinished-*"))
    assert len(list((tmp_path / "s").glob("embeddings/metadata/metadata_*"))) >= 3


def test_a_step_that_does_not_heed_a_signal_is_ended_all_the_same(tmp_path):
    """One step of the interpreter may be a batch on a large model."""
    deaf = (
        "import sys, time; from pathlib import Path; from clipdre.cli import signals\n"
        "from clipdre.formats.files.storage import committed\n"
        "import hashlib; signals.install()\n"
        "with committed(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('deaf', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'x', b'y', 100_000_000)\n"
    )
    command = [sys.executable, "-c", deaf, str(tmp_path / "a.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"deaf\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert time.monotonic() - begin < 10
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_two_runs_on_one_output_exclude_each_other(large, tmp_path):
    command = [str(CLIPDRE), "score", str(large), "-o", str(tmp_path / "s"), *TINY]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "s" / "manifest.json").exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        first.kill()
    assert second.returncode == 1
    assert "another run is writing to" in second.stderr


def test_a_little_torture():
    """`make torture` does it hundreds of times."""
    command = [
        sys.executable,
        str(ROOT / "scripts" / "torture.py"),
        "--kills",
        "3",
        "--pairs",
        "80",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ}, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^(\w+): 3 kills, \d+ runs that ended, all as", done.stdout, re.MULTILINE)
    assert lines == ["score", "filter", "emit"]
