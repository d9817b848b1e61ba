import io
import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest

from clipdre.progress import BARS, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def tell(monkeypatch, seconds):
    """Let the clock show these seconds, one after another."""
    clock = iter(seconds)
    monkeypatch.setattr("clipdre.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))


def run(label):
    with Progress(label, total=100) as progress:
        progress.advance(40, samples=1000)
        progress.advance(60, samples=500)


def test_is_silent_without_a_terminal(capfd):
    run("read")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_shows_work_and_samples_on_a_terminal(monkeypatch, capfd):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run("read")
    last = terminal.getvalue().strip("\r\n").split("\r")[-1]
    assert last.startswith("read: 100%|")
    assert " 1,500 samples, " in last
    assert capfd.readouterr().out == ""


def test_rate_counts_samples_per_second(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    tell(monkeypatch, [10.0, 14.0, 14.0])
    with Progress("read", total=1) as progress:
        progress.advance(1, samples=6000)
    assert "6,000 samples, 1,500/s" in terminal.getvalue()


def test_logs_a_line_every_30_seconds_and_one_at_the_end(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "clipdre.progress")
    tell(monkeypatch, [0, 10, 40, 60, 90, 95])
    with Progress("encode", total=1000) as progress:
        progress.skip(200)
        for failed in (0, 1, 0, 2):
            progress.advance(100, samples=900, failures=failed)
    # 200 of 800 units took 40 s, so 600 take 120 s; then 400 took 90 s, so 400 take 90 s.
    assert caplog.messages == [
        "encode: 40%, 1,800 samples, 45/s, 1 failed, 02:00 left",
        "encode: 60%, 3,600 samples, 40/s, 3 failed, 01:30 left",
        "encode: 60%, 3,600 samples, 38/s, 3 failed, 01:35",
    ]


def test_a_short_stage_logs_nothing_but_a_debug_line(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "clipdre.progress")
    tell(monkeypatch, [0, 29, 29.9])
    with Progress("read", total=4) as progress:
        progress.advance(4)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("DEBUG", "read: 100%, 00:29")


def test_bars_can_be_turned_off(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    before = BARS.set(False)
    run("read")
    BARS.reset(before)
    assert terminal.getvalue() == ""


def test_a_notebook_gets_a_bar_of_its_own():
    """tqdm asks IPython where it runs; here something answers like a notebook's kernel."""
    code = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
class Notebook:
    def __init__(self, **options):
        print(options["disable"])
    def close(self):
        pass
Notebook.__module__ = "tqdm.notebook"
auto = types.ModuleType("tqdm.auto")
auto.tqdm = Notebook
Notebook.format_interval = staticmethod(str)
sys.modules["tqdm.auto"] = auto
from clipdre.progress import Progress
with Progress("read", 1):
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_shows_no_samples_where_none_are_counted(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("reference", total=1) as progress:
        progress.advance(1)
    assert "reference: 100%" in terminal.getvalue()
    assert "sample" not in terminal.getvalue()


def test_one_sample_is_singular(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("read", total=1) as progress:
        progress.advance(1, samples=1)
    assert " 1 sample, " in terminal.getvalue()


def test_closes_its_bar_when_work_fails(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(OSError, match="gone"), Progress("read", total=10):
        raise OSError("gone")
    assert terminal.getvalue().endswith("\n")
