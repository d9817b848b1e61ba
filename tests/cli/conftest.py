"""The command line in this process, which is faster than a shell."""

from __future__ import annotations

import shlex
import shutil
import warnings

import pytest
from typer.testing import CliRunner

from clipdre.cli.main import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command line in `tmp_path`; returns exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored at the end
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TERMINAL_WIDTH", raising=False)

    def invoke(command, stdin=None):
        words = shlex.split(command)
        return CliRunner().invoke(
            app, words, input=stdin, prog_name="clipdre", catch_exceptions=False
        )

    return invoke


@pytest.fixture
def scores(scored, tmp_path):
    """A copy of the score folder, to change."""
    return shutil.copytree(scored[0], tmp_path / "scores")
