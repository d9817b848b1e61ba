"""Runs that are killed, interrupted, or collide with another."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipdre.truth.pool import write_pool
from tests.helpers import tiny_score

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
def test_signal_ends_the_run_within_a_second(large, tmp_path, number):
    command = [str(CLIPDRE), "score", str(large), "-o", str(tmp_path / "s"), *TINY]
    command += ["--log-file", str(tmp_path / "log")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len(list((tmp_path / "s").glob("embeddings/metadata/metadata_*"))) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        begin = time.monotonic()
        process.send_signal(number)
        _, printed = process.communicate(timeout=10)
        took = time.monotonic() - begin
    assert process.returncode == 128 + number
    assert printed.splitlines()[-1].startswith("clipdre: interrupted")
    assert " ERROR interrupted; " in (tmp_path / "log").read_text().splitlines()[-1]
    assert "Traceback" not in printed
    assert took < 5  # one second, plus a margin for busy machines
    assert not list((tmp_path / "s").rglob(".unfinished-*"))
    assert len(list((tmp_path / "s").glob("embeddings/metadata/metadata_*"))) >= 3


def test_signal_ends_a_step_that_ignores_it(tmp_path):
    """A single step of the interpreter may be a whole batch on a large model.

    The step lets other threads run: one of them reports, a second later, that it is under way.
    """
    deaf = (
        "import sys, threading; from pathlib import Path; from clipdre.cli import signals\n"
        "from clipdre.formats.files.storage import committed\n"
        "import hashlib; signals.install()\n"
        "with committed(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    threading.Timer(1, print, ['deaf'], {'flush': True}).start()\n"
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
    command += ["--log-file", str(tmp_path / "log")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        while not (tmp_path / "s" / "manifest.json").exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        first.kill()
    assert second.returncode == 1
    assert "another run is writing to" in second.stderr


def test_run_killed_while_writing_its_first_file_starts_again(pool, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".unfinished-host-1-0123abcd-manifest.json").write_text("{")
    assert tiny_score(pool, tmp_path / "s").rows == 300
    assert not list((tmp_path / "s").rglob(".unfinished-*"))


def test_killed_runs_resume():
    """A few kills; `make torture` does hundreds, and kills nodes of a cluster too."""
    script = str(ROOT / "scripts" / "torture.py")
    command = [sys.executable, script, "--kills", "3", "--nodes", "0", "--pairs", "80"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r"^(\w+): 3 kills, \d+ runs that ended, all as", done.stdout, re.MULTILINE)
    assert lines == ["score", "filter", "emit"]
