"""Promises of SECURITY.md that no other test covers. Each test fails if its guard is removed."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from clipdre.config import EmitConfig
from clipdre.emitting.emit import write_tar_folder
from clipdre.words import strip_controls
from tests.helpers import pair, png, read_scores, subset_of, tiny_score, write_tar

CLIPDRE = Path(sys.executable).parent / "clipdre"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A scored pool with terminal escapes, keys that lead out of their folder, and pickles."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "pool").mkdir()
    mark = folder / "unpickled"
    trap = pickle.dumps(Trap(str(mark)))
    traps = [(f"p.{suffix}", trap) for suffix in ("pkl", "pyd", "pth", "json")]
    members = [
        *pair("../../escaped", f"one {ESCAPE}"),
        *pair(f"{folder}/absolute", "two", 1),
        *pair(f"k{ESCAPE}", "<script>alert(1)</script>", 2),
        ("p.png", png(3)),
        ("p.txt", b"three"),
        *traps,
    ]
    write_tar(folder / "pool" / "a.tar", members, 2)
    return folder, tiny_score(folder / "pool", folder / "s"), mark


def test_nothing_is_unpickled(hostile):
    folder, manifest, mark = hostile
    assert manifest.rows == 4
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(str(folder / "sprung"))))  # the trap works
    assert (folder / "sprung").exists()


def test_webdataset_is_not_imported():
    """Its decoders unpickle."""
    listed = "import sys; import clipdre.cli.main, clipdre.pipelines.score, clipdre.emitting.export"
    code = f"{listed}; print('webdataset' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_keys_write_only_into_the_output(hostile, tmp_path):
    folder, manifest, _ = hostile
    before = {path for path in folder.rglob("*") if "kept" not in path.parts}
    write_tar_folder(subset_of((folder / "s", manifest)), tmp_path / "a" / "b", EmitConfig())
    assert set(folder.rglob("*")) == before
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "00000000.tar",
        "00000000.parquet",
        "00000000_stats.json",
        "sizes.json",
        "summary.json",
    }
    assert not (folder / "absolute.png").exists()


def test_escapes_do_not_reach_the_terminal(hostile):
    folder, manifest, _ = hostile
    captions = read_scores(folder / "s", manifest)["caption"].to_pylist()
    assert any(ESCAPE in caption for caption in captions)  # the table keeps the original
    commands = (
        ["filter", "s", "--recipe", "kl", "--recipe", "log-ratio", "--dry-run"],
        ["weigh", "s", "--prompt", "red", "-o", "w.parquet", "--device", "cpu"],
        ["doctor", "pool"],
        ["emit", "s", "--keys", "keys", "-o", "out"],
    )
    (folder / "keys").write_text(f"../../escaped\nnone{ESCAPE}\n")
    for command in commands:
        done = subprocess.run(
            [str(CLIPDRE), *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        assert not set("\x1b\x07\x9b\u202e") & set(done.stderr), command


def test_strip_controls_keeps_text_and_lines():
    assert strip_controls("é 画像\nred") == "é 画像\nred"
    assert strip_controls(ESCAPE) == "�]0;owned��[2J��31m"


def test_errors_print_no_escapes(hostile):
    folder, _, _ = hostile
    command = [str(CLIPDRE), "filter", "s", "--where", f"caption = 'x{ESCAPE}", "-o", "x"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert not set("\x1b\x07\x9b\u202e") & set(done.stderr)
    assert len(io.StringIO(done.stderr).readlines()) == 1
