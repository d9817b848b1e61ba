"""The wheel and the sdist hold everything that clipdre needs, and nothing from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from clipdre.truth.pool import write_pool

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a checkout")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    source = out / "source"  # building leaves folders behind
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "demo", "dist", "build")
    shutil.copytree(ROOT, source, symlinks=True, ignore=skipped)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_runs_without_the_checkout(built, tmp_path):
    wheel, _ = built
    packages = tmp_path / "packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    write_pool(tmp_path / "pool", 40, seed=0, noise={}, shard_size=40)

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": str(packages)}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert Path(python("-c", "import clipdre; print(clipdre.__file__)")).is_relative_to(packages)
    run = ("-m", "clipdre")
    python(*run, "score", "pool", "-o", "scores", "--model", "clipdre-tiny", "--device", "cpu")
    rule = ("--recipe", "log-ratio", "--budget", "50%", "--format", "keys", "-o", "-")
    assert len(python(*run, "filter", "scores", *rule).splitlines()) == 20


def test_the_wheel_holds_the_package_alone(built):
    wheel, _ = built
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipdre"}
    recipes = {Path(name).name for name in names if name.startswith("clipdre/recipes/")}
    assert recipes == {path.name for path in (ROOT / "configs").glob("*.toml")}
    assert {"clipdre/py.typed", "clipdre/tiny/open_clip_model.safetensors"} <= set(names)


def test_the_sdist_holds_tests_and_documents(built):
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "tests/helpers.py",
        "tests/cli/test_damage.py",
        "docs/estimators.md",
        "evidence/grid.py",
        "Makefile",
    ):
        assert name in names
    assert {f"configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")} <= names
