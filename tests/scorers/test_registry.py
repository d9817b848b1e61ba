import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipdre.errors import UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.scorers.base import Scorer
from clipdre.scorers.registry import NOT_SCORERS, find_scorer, scorers
from clipdre.testing import example_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "caption-length"


def test_every_file_of_the_package_is_found():
    folder = Path(sys.modules["clipdre.scorers"].__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", *NOT_SCORERS}
    assert {scorer.__module__.rpartition(".")[2] for scorer in scorers().values()} == files
    assert list(scorers()) == sorted(scorers())
    examples = [example_of(scorer, Path("scores")) for scorer in scorers().values()]
    assert all(isinstance(scorer, Scorer) and scorer.cost for scorer in examples)


def test_an_unknown_scorer_gives_the_closest_names():
    with pytest.raises(UsageError, match="unknown scorer promt-weight: did you mean prompt-weight"):
        find_scorer("promt-weight")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example package, installed into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, timeout=120)
    return target


def run(installed, *arguments):
    command = [sys.executable, "-m", "clipdre", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{installed}:{Path.cwd()}"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120
    )


def test_an_installed_package_brings_a_scorer(installed, scores):
    assert "caption-length" in run(installed, "scorers").stdout
    done = run(installed, "measure", str(scores), "caption-length", "--most", "3")
    folder = Path(done.stdout.strip())
    assert folder == ScoreFolder(scores).columns / "caption-length"
    words = pq.read_table(folder / "00000.parquet")["caption_words"].to_pylist()
    captions = pq.read_table(ScoreFolder(scores).scores("00000"))["caption"].to_pylist()
    assert words == [min(len(caption.split()), 3) for caption in captions]
    kept = run(
        installed,
        "filter",
        str(scores),
        "--where",
        "caption_words = 1",
        "--format",
        "keys",
        "-o",
        "-",
    ).stdout.splitlines()
    assert len(kept) == sum(len(c.split()) == 1 for c in all_captions(scores))


def test_the_example_keeps_the_contract(installed, scored, tmp_path):
    code = (
        "import sys; from pathlib import Path; from clipdre.testing import check_scorer;"
        "from clipdre_caption_length import CaptionLength;"
        "check_scorer(CaptionLength, Path(sys.argv[1]), Path(sys.argv[2])); print('kept')"
    )
    environment = {**os.environ, "PYTHONPATH": f"{installed}:{Path.cwd()}"}
    command = [sys.executable, "-c", code, str(scored[0]), str(tmp_path)]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout == "kept\n"


def all_captions(scores):
    files = sorted((scores / "scores").glob("*.parquet"))
    return [caption for file in files for caption in pq.read_table(file)["caption"].to_pylist()]
