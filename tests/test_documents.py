"""What documents show is what commands print, and every command in them can be given."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import clipdre
from clipdre.cli.main import app

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "clipdre").rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
# A command ends at a pipe, a redirection or a comment.
COMMAND = re.compile(
    r"""(?:^|\$ |\$\(|\| |&& )(clipdre \w(?:"[^"]*"|'[^']*'|[^|#\n>)"'])*)""", re.MULTILINE
)


def runner():
    path = ROOT / "scripts" / "run_documents.py"
    spec = importlib.util.spec_from_file_location("run_documents", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed_commands():
    for path in DOCUMENTS:
        if path.name == "cli.md":  # generated from the options themselves
            continue
        for block in FENCED.findall(path.read_text(encoding="utf-8")):
            for command in COMMAND.findall(block.replace("\\\n", " ")):
                yield pytest.param(command, id=f"{path.name}: {command.strip()[:60]}")


@pytest.mark.parametrize("command", list(printed_commands()))
def test_printed_commands_can_be_given(command):
    """Their options exist and their values are valid; nothing is run."""
    known = typer.main.get_command(app)
    name, *arguments = shlex.split(command.strip())
    while hasattr(known, "get_command"):  # groups take arguments too
        with known.make_context(name, arguments) as context:
            name, *arguments = [*context._protected_args, *context.args]
            known = known.get_command(context, name)
    known.make_context(name, arguments).close()  # which undoes what options such as --quiet set


def test_outputs_are_compared_but_for_seconds_and_rates(tmp_path):
    document = (
        "text\n\n```console\n$ echo one; \\\n  echo 12.5 pairs/s\none\n3 pairs/s\n$ true\n```\n"
    )
    assert runner().ran(document, tmp_path) == document
    for wrong in ("two", "one two", "1"):
        changed = document.replace("\none\n", f"\n{wrong}\n")
        assert runner().ran(changed, tmp_path) == document.replace("3 pairs", "12.5 pairs")


def test_outputs_may_differ_by_rounding():
    same = runner().same
    assert same("mean -3.355 of 1,990 pairs in 2 s", "mean -3.356 of 1,990 pairs in 31 s")
    assert not same("mean -3.355", "mean 3.355")
    assert not same("mean -3.355", "mean -3.415")
    assert not same("455 of 1,990", "455 of 1,890")
    assert not same("shard-00001", "shard-00002")
    assert not same("kept", "kept 3")


@pytest.mark.parametrize("name", ["tutorial.md"])
def test_console_blocks_show_what_their_commands_print(name, tmp_path):
    document = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert runner().ran(document, tmp_path) == document


def test_messages_in_troubleshooting_are_those_of_the_code():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    source = " ".join(path.read_text(encoding="utf-8") for path in CODE)
    # Strings that go on in the next line.
    joined = re.sub(r'"\s*\n\s*f?"', "", source).replace("{NEAR_LOG_N:g}", "1")
    messages = re.findall(r"^### `(.*)`$", text, re.MULTILINE)
    assert len(messages) > 8
    assert [message for message in messages if message not in joined] == []


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    for name in clipdre.__all__:
        assert f".{name}" in reference, name
    for page in tmp_path.rglob("*.html"):  # it needs no network
        loaded = re.findall(
            r'<(?:script|img|link)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text()
        )
        assert not [url for url in loaded if "canonical" not in url], page
