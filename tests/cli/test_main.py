"""The command line as a shell sees it."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from clipdre.formats.manifest import read_manifest
from tests.conftest import pair, write_tar

CLIPDRE = Path(sys.executable).parent / "clipdre"
PATH = {"PATH": f"{CLIPDRE.parent}:{os.environ['PATH']}"}
TINY = "--model clipdre-tiny --device cpu"


def shell(command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
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
    run = shell(command, cwd)
    assert run.returncode == 0, run.stderr
    return run.stdout


class TestPipelines:
    def test_find_feeds_score_and_score_feeds_filter(self, pool, tmp_path):
        printed = succeeded(
            f"find {pool} -name '*.tar' | sort | clipdre score - -o s {TINY}", tmp_path
        )
        assert printed == "s\n"
        assert read_manifest(tmp_path / "s").rows == 300
        command = (
            f'clipdre filter "$(clipdre score {pool} -o s {TINY})" --by log_ratio --top 30% -o kept'
        )
        assert succeeded(command, tmp_path) == "kept\n"
        with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
            assert len(tar.getmembers()) == 3 * 90

    def test_keys_to_sort_and_head(self, scored):
        folder, _ = scored
        keys = f"clipdre filter {folder} --where 'similarity > 0.3' --format keys -o -"
        assert succeeded(f"{keys} | sort | head -2").splitlines() == [
            "00000/000000000",
            "00000/000000001",
        ]

    def test_a_tar_to_tar(self, scored):
        folder, _ = scored
        names = succeeded(
            f"clipdre filter {folder} --by kl_text --top 10 -o - | tar t"
        ).splitlines()
        assert len(names) == 30

    def test_a_closed_pipe_ends_quietly(self, scored):
        folder, _ = scored
        command = f"clipdre filter {folder} --format tar -o - | head -c 100 | wc -c"
        run = shell(command)
        assert run.stdout.strip() == "100"
        assert "Traceback" not in run.stderr
        assert "rror" not in run.stderr

    def test_parquet_to_a_file(self, scored, tmp_path):
        folder, _ = scored
        path = tmp_path / "top.parquet"
        command = f"clipdre filter {folder} --by kl_text --top 7 --format parquet -o {path}"
        assert succeeded(command) == f"{path}\n"
        again = shell(command)
        assert again.returncode == 1
        assert "choose another --output, or give --overwrite" in again.stderr


class TestReference:
    def test_says_how_reliable_each_column_is(self, scored, tmp_path):
        folder, _ = scored
        run = shell(f"clipdre reference {folder} --plot {tmp_path}/a.png")
        assert run.returncode == 0, run.stderr
        assert "exact reference of 300 pairs" in run.stderr
        assert "Every score is exact for this pool" in run.stderr
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def test_json_is_for_machines(self, scored):
        folder, _ = scored
        found = json.loads(succeeded(f"clipdre reference {folder} --json"))
        assert found["record"]["method"] == "exact"
        assert {c["column"] for c in found["columns"]} >= {"log_ratio", "kl_image", "klr_text"}
        assert all(c["reliability"] == 1 for c in found["columns"])


class TestWords:
    def test_score_ends_with_what_a_curator_needs(self, pool, tmp_path):
        write_tar(tmp_path / "bad.tar", [*pair("x"), ("y.png", b"<html>"), ("y.txt", b"y")])
        run = shell(f"clipdre score {pool} {tmp_path}/bad.tar -o {tmp_path}/s {TINY}")
        assert run.returncode == 0, run.stderr
        for said in (
            "302 samples in 4 shards",
            "mutual information of the pool",
            "kl_text",
            "95%",
            "its scores of real images mean nothing",
            f"why samples failed: {tmp_path}/s/failures/",
        ):
            assert said in run.stderr, said
        assert re.search(r"unreadable_image +1\b", run.stderr)
        assert "samples/s" not in run.stderr  # no progress bar without a terminal

    def test_dry_run_counts_and_writes_nothing(self, scored, tmp_path):
        folder, _ = scored
        run = shell(f"clipdre filter {folder} --by log_ratio --top 25% --dry-run", tmp_path)
        assert (run.returncode, run.stdout) == (0, "")
        assert "would keep 75 of 300 pairs (25.0%)" in run.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("score {empty} -o {out}", 1, "no .tar files in"),
        ("score nowhere.tar -o {out}", 1, "no such shard or folder: nowhere.tar"),
        ("score {pool} -o {out} --model ViT-B-33", 1, "did you mean ViT-B-32"),
        ("score {pool} -o {out} --model ViT-B-32 --pretrained a/b.pt", 1, "no checkpoint a/b.pt"),
        (
            "score {pool} -o {scores} {tiny} --text-key json:title",
            1,
            "differs in read caption_field",
        ),
        ("score {pool} -o {pool} {tiny}", 1, "is no score folder: choose another --output"),
        ("score {pool} -o {out} --text-key xml:title", 2, "json:FIELD"),
        ("score {pool}", 2, "--output"),
        ("filter {pool} --top 3 --by width -o {out}", 1, "make one with 'clipdre score'"),
        ("filter {scores} --where 'simlarity > 1' -o {out}", 1, "did you mean similarity?"),
        ("filter {scores} --by nosuch --top 3 -o {out}", 1, "there is no column nosuch"),
        ("filter {scores} --by width --top 150% -o {out}", 1, "at most 100%"),
        ("filter {scores} --by width -o {out}", 1, "--by and --top belong together"),
        ("filter {scores} --where 'width < 0' -o {out}", 1, "nothing is kept"),
        ("filter {scores} --by width --top 3", 2, "--output"),
        ("demo {pool}", 1, "name a new folder"),
        ("weigh {pool} --prompt x -o {out}", 1, "make one with 'clipdre score'"),
        ("weigh {scores} --prompt x -o {pool}", 1, "choose another --output"),
        ("weigh {scores} -o {out}", 2, "--prompt"),
        ("score -o {out}", 2, "either SHARDS or --embeddings"),
        ("score --embeddings {pool} -o {out}", 1, "no embeddings that clipdre knows"),
        ("reference {pool}", 1, "make one with 'clipdre score'"),
        ("reference {scores} --plot a.pdf", 2, "name a .png or .svg file"),
        ("score {pool} -o {out} {tiny} --reference nowhere", 2, "no such folder exists"),
        ("score {pool} -o {out} {tiny} --reference {pool}", 1, "make one with 'clipdre score'"),
        ("score {pool} -o {out} {tiny} --normalize tau", 2, "belong together"),
    ],
)
def test_a_users_mistake_is_one_line_with_the_cure(pool, scored, tmp_path, command, code, said):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    names = {
        "empty": tmp_path / "empty",
        "pool": pool,
        "scores": scored[0],
        "tiny": TINY,
        "out": out,
    }
    run = shell(f"clipdre {command.format(**names)}", tmp_path)
    assert run.returncode == code
    assert run.stdout == ""
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    if code == 1:
        errors = [line for line in run.stderr.splitlines() if "error" in line]
        assert len(errors) == 1
        assert errors[0].startswith("clipdre: error: ")
    assert not out.exists()


@pytest.mark.parametrize("command", ["", "score", "filter", "reference", "weigh", "demo"])
def test_every_help_has_an_example(command):
    assert "Example:" in succeeded(f"clipdre {command} --help")
