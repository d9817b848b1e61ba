import signal

import pytest

from clipdre.cli import main as program
from clipdre.cli import signals


def test_an_interrupt_that_a_library_turned_into_an_error(monkeypatch, capfd):
    """Extensions do so while they are imported: what ended the run is the signal."""

    def app():
        try:
            signals._interrupt(signal.SIGINT, None)
        except signals.Interrupted:
            raise AttributeError("partially initialized module") from None

    monkeypatch.setattr(signals, "install", lambda: None)
    monkeypatch.setattr(signals, "_received", [])
    monkeypatch.setattr(signals, "_announced", signals.threading.Event())
    monkeypatch.setattr(program, "app", app)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capfd.readouterr().err == f"clipdre: {signals.MESSAGE}\n"
