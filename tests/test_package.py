import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import clipdre

PACKAGE = Path(clipdre.__file__).parent


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("clipdre") == clipdre.__version__


@pytest.mark.parametrize(
    "module", ["clipdre.cli.main", "clipdre.emitting.emit", "clipdre.selecting.select"]
)
def test_help_and_filter_do_not_wait_for_torch(module):
    assert not {"torch", "open_clip"} & imported_by(f"import {module}")


def test_help_waits_for_nothing_heavy():
    heavy = {"torch", "open_clip", "duckdb", "pyarrow", "numpy", "matplotlib"}
    assert not heavy & imported_by("import clipdre.cli.main")


def test_the_core_needs_torch_and_numpy_only():
    code = "import clipdre.core.partition, clipdre.core.divergence, clipdre.core.density_ratio"
    found = imported_by(f"{code}, clipdre.core.allocation") - imported_by("import torch, numpy")
    assert {name.partition(".")[0] for name in found} <= {"clipdre", "torch", "numpy"}


def test_the_embedded_model_is_small_and_ships():
    weights = PACKAGE / "tiny" / "open_clip_model.safetensors"
    assert 0 < weights.stat().st_size <= 16_000_000
    assert (PACKAGE / "py.typed").exists()


def test_rooms_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
