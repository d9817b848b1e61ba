"""The package as a whole: what imports load, how large files are, what ships."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import clipdre

PACKAGE = Path(clipdre.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "open_clip", "duckdb", "pyarrow", "numpy", "matplotlib", "faiss"}


def loaded_by(code: str) -> set[str]:
    """Return the modules that some code loads."""
    script = f"{code}\nimport sys\nprint('\\n' + ' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file of clipdre imports anywhere, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path  # imports are absolute
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_version_is_that_of_the_distribution():
    assert importlib.metadata.version("clipdre") == clipdre.__version__


def test_importing_clipdre_loads_nothing_else():
    assert {name for name in loaded_by("import clipdre") if name.startswith("clipdre")} == {
        "clipdre"
    }


@pytest.mark.parametrize("command", [["--help"], ["score", "--help"], ["filter", "--help"]])
def test_help_waits_for_nothing_heavy(command):
    code = (
        "from typer.testing import CliRunner\nfrom clipdre.cli.main import app\n"
        f"assert CliRunner().invoke(app, {command}).exit_code == 0"
    )
    assert not HEAVY & loaded_by(code)


@pytest.mark.parametrize(
    "module",
    [
        "clipdre.core.scores",
        "clipdre.emitting.emit",
        "clipdre.emitting.write",
        "clipdre.selecting.listed",
        "clipdre.selecting.preview",
        "clipdre.selecting.request",
        "clipdre.selecting.select",
        "clipdre.reporting.summary",
        "clipdre.doctor",
    ],
)
def test_selecting_emitting_and_reporting_do_not_load_torch(module):
    assert not {"torch", "open_clip", "faiss"} & loaded_by(f"import {module}")


def test_the_core_needs_torch_and_numpy_only():
    modules = [f"clipdre.core.{path.stem}" for path in (PACKAGE / "core").glob("[!_]*.py")]
    assert len(modules) > 10
    found = loaded_by(f"import {', '.join(modules)}") - loaded_by("import torch, numpy")
    rooms = {".".join(name.split(".")[:2]) for name in found if name.startswith("clipdre.")}
    assert rooms == {"clipdre.core"}
    others = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert others <= {"clipdre", "torch", "numpy", "triton"}  # torch brings triton along


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "scorers").glob("*.py")), ids=lambda path: path.stem
)
def test_scorers_import_only_core_and_errors(path):
    ours = {name for name in imports_of(path) if name.partition(".")[0] == "clipdre"}
    rooms = {name.split(".")[1] if "." in name else "" for name in ours}
    assert rooms <= {"core", "errors", "scorers", "words"}


def test_the_command_line_uses_rooms_and_rooms_do_not_use_it():
    for path in FILES:
        uses = {name for name in imports_of(path) if name.startswith("clipdre.cli")}
        assert not uses or path.parent.name == "cli" or path.name == "__main__.py", path


def test_the_embedded_model_is_small_and_ships():
    weights = PACKAGE / "tiny" / "open_clip_model.safetensors"
    assert 0 < weights.stat().st_size <= 16_000_000
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_documented(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))
