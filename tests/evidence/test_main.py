"""`python -m evidence`, and what the documents show of it."""

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from evidence import __main__ as command
from evidence.report import read_rows, report
from tests.evidence.test_grid import ROOT
from tests.helpers import pair, write_tar

LABEL = re.compile(r'aria-label="(share[^"]*)"')
RESULTS = ROOT / "evidence" / "results"


def test_the_document_shows_the_stored_results():
    shown = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert report(RESULTS) in shown
    done = subprocess.run(
        [sys.executable, "-m", "evidence", "--report"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == report(RESULTS)


def test_the_picture_is_that_of_the_stored_results(tmp_path):
    drawn = tmp_path / "drawn.svg"
    command.save(read_rows(RESULTS), command.PANELS, drawn)
    stored = ROOT / "docs" / "images" / "evidence.svg"
    one, other = (LABEL.findall(path.read_text(encoding="utf-8")) for path in (drawn, stored))
    assert len(one) > 10
    assert one == other


def invoked(*options):
    app = typer.Typer()
    app.command()(command.main)
    return CliRunner().invoke(app, options)


@pytest.mark.parametrize(
    ("rule", "message"), [("kl", "there is no rule 'kl'"), ("dsir", "rule dsir needs a target")]
)
def test_rules_that_cannot_be_compared(rule, message):
    assert message in str(invoked("--pool", "nowhere", "--rule", rule).exception)


@pytest.fixture
def shards(tmp_path):
    members = [
        member
        for n in range(40)
        for member in pair(f"{n:04d}", f"caption {n % 5} of {n % 3}", seed=n)
    ]
    broken = [("broken.png", b"no image"), ("broken.txt", b"a caption")]
    return write_tar(tmp_path / "own.tar", [*members[:30], *broken, *members[30:]])


def test_a_pool_of_ones_own(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BUILD", tmp_path / "build")
    monkeypatch.setattr(command, "BUDGETS", (0.5,))
    options = ["--pool", str(shards), "--model", "clipdre-tiny", "--seeds", "1", "--steps", "20"]
    done = invoked(*options, "--rule", "similarity", "--rule", "log_ratio")
    assert done.exit_code == 0, done.output
    rows = read_rows(tmp_path / "build" / "results")
    assert [row["rule"] for row in rows] == ["everything", "random", "similarity", "log_ratio"]
    assert rows[0]["kept"] == 36  # of 40 readable pairs, a tenth is held out
    assert {row["teacher"] for row in rows} == {"none", "clipdre-tiny"}
    assert "| similarity | 1.000 (1) |  |  |" in done.output  # none is known to be clean
