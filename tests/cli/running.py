"""Run command lines in a shell, and read what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CLIPDRE = Path(sys.executable).parent / "clipdre"
PATH = {"PATH": f"{CLIPDRE.parent}:{os.environ['PATH']}"}
TINY = "--model clipdre-tiny --device cpu"


def shell(command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command line with pipes."""
    command = f"set -o pipefail; {command}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **PATH},
        check=False,
    )


def succeeded(command: str, cwd: Path | None = None) -> str:
    """Return what a command line writes to stdout."""
    run = shell(command, cwd)
    assert run.returncode == 0, run.stderr
    return run.stdout


def printed(run: Any) -> str:
    """Return what a successful run wrote to stdout."""
    assert run.exit_code == 0, run.stderr
    return run.stdout


def error_of(run: Any, code: int) -> str:
    """Return the only error line of a run that failed with `code` and wrote nothing to stdout."""
    assert run.exit_code == code, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    (error,) = [line for line in run.stderr.splitlines() if "error" in line.lower()]
    assert error.startswith("clipdre: error: ")
    return error.removeprefix("clipdre: error: ")


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the rows of printed tables by their first cell."""
    cells = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}
