import io
from types import SimpleNamespace

import pytest

from clipdre.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


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
    seconds = iter([10.0, 14.0])
    monkeypatch.setattr("clipdre.progress.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with Progress("read", total=1) as progress:
        progress.advance(1, samples=6000)
    assert "6,000 samples, 1,500/s" in terminal.getvalue()


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
