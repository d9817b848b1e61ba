"""Notes, warnings and errors, on stderr and in a log file."""

import os
import pty
import re
import subprocess
import termios

import pytest

from tests.cli.running import CLIPDRE, TINY, error_of, printed

LONG = {
    "score {pool} -o out {tiny}": "out\n",
    "doctor {pool} --json": "{",
    "filter {scores} --by kl_text --top 3 -o out": "out\n",
    "emit {scores} --keys keys.txt -o out": "out\n",
    "measure {scores} prompt-weight --prompt circle": "{scores}/columns/prompt-weight\n",
}


@pytest.fixture
def long(pool, scores, tmp_path):
    (tmp_path / "keys.txt").write_text("00000/000000003\n")
    return {"pool": pool, "scores": scores, "tiny": TINY}


@pytest.mark.parametrize("command", LONG)
def test_long_commands_can_be_quiet_and_keep_a_log(run, long, tmp_path, command):
    found = run(f"{command.format(**long)} --quiet --log-file log")
    assert printed(found).startswith(LONG[command].replace("{scores}", str(long["scores"])))
    assert found.stderr == ""
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|DEBUG) \S", line) for line in lines
    )
    stage = {"score": "encode", "filter": "emit", "doctor": "read"}
    name = stage.get(command.split()[0], command.split()[0])
    assert any(f" DEBUG {name}: 100%, " in line for line in lines)
    # Later runs are not quiet, and their log follows the first.
    again = run(f"{command.format(**long)} --log-file log")
    assert printed(again) == found.stdout
    assert len((tmp_path / "log").read_text().splitlines()) > len(lines)
    printed(run(f"filter {long['scores']} --all --format keys -o all.txt"))
    assert run(f"filter {long['scores']} --all --format keys -o all2.txt").stderr != ""


def test_errors_are_shown_and_logged(run, tmp_path):
    error = error_of(run("doctor nowhere --quiet --log-file log"), 1)
    assert error == "no such shard or folder: nowhere: check the path"
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(f" ERROR {error}")


def test_a_log_that_cannot_be_written_is_refused(run, pool):
    assert error_of(run(f"doctor {pool} --log-file none/log"), 2) == (
        "invalid value for --log-file: cannot write none/log (No such file or directory)"
    )


@pytest.mark.parametrize(("options", "bar"), [((), True), (("--quiet",), False)])
def test_a_terminal_gets_a_bar(pool, tmp_path, options, bar):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [CLIPDRE, "doctor", pool, "--json", *options]
    subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux ends a pseudo-terminal so
        pass
    os.close(ours)
    assert (b"read: 100%|" in shown) == bar
    assert bar or not shown
