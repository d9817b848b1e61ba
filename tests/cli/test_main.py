"""The command line as a shell sees it."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from clipdre.formats.folders.manifest import read_manifest
from tests.helpers import pair, write_tar

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
        assert succeeded(f"{keys} | sort | sed -n 1,2p").splitlines() == [
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

    def test_any_tool_stands_between_filter_and_emit(self, scored, tmp_path):
        folder, _ = scored
        keys = f"clipdre filter {folder} --by kl_text --top 12 --format keys -o -"
        emit = f"clipdre emit {folder} --keys - -o {tmp_path}/kept"
        command = f"{keys} | sort -r | sed -n 1,8p | {emit}"
        assert succeeded(command) == f"{tmp_path}/kept\n"
        with tarfile.open(tmp_path / "kept" / "00000000.tar") as tar:
            assert len(tar.getmembers()) == 3 * 8
        run = shell(f"echo nosuch | clipdre emit {folder} --keys - -o {tmp_path}/none")
        assert run.returncode == 1
        assert "stdin names none of the samples" in run.stderr

    def test_uids_to_emit_and_lines_to_tools(self, scored, tmp_path):
        folder, _ = scored
        uids = f"clipdre filter {folder} --where 'width = 64' --sample 9 --format uids -o -"
        emitted = f"{uids} | clipdre emit {folder} --keys - --format jsonl -o -"
        rows = [json.loads(line) for line in succeeded(emitted).splitlines()]
        assert len(rows) == 9
        assert all(row["width"] == 64 for row in rows)


class TestRecipes:
    def test_they_are_listed_printed_and_changed(self, scored, tmp_path):
        folder, _ = scored
        assert "log-ratio-then-kl" in succeeded("clipdre recipes").splitlines()
        change = "sed 's/25%/10%/'"
        succeeded(f"clipdre recipes log-ratio-then-kl | {change} > mine.toml", tmp_path)
        command = f"clipdre filter {folder} --recipe mine.toml --format keys -o - | wc -l"
        assert succeeded(command, tmp_path).strip() == "30"

    def test_several_are_compared_before_any_is_run(self, scored, tmp_path):
        folder, _ = scored
        options = "--recipe log-ratio --recipe kl-text --budget 20% --dry-run"
        run = shell(f"clipdre filter {folder} {options}", tmp_path)
        assert (run.returncode, run.stdout) == (0, "")
        for said in (
            "kl-text: would keep 60 of 300 pairs (20.0%)",
            "log-ratio: mutual information",
            "what each step keeps",
            "kept of each shard",
            "repeated among the kept",
            "Jaccard",
            "kept by one recipe alone",
        ):
            assert said in run.stderr, said
        found = json.loads(succeeded(f"clipdre filter {folder} {options} --json"))
        assert [s["kept"] for s in found["selections"]] == [60, 60]
        assert {(p["a"], p["b"]) for p in found["jaccard"]} == {("log-ratio", "kl-text")}
        assert set(found["only"]) == {"log-ratio", "kl-text"}
        assert not list(tmp_path.iterdir())


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
            "--precision auto: f",
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
        ("filter {scores} --recipe kl-txt -o {out}", 1, "did you mean kl-text?"),
        ("filter {scores} --recipe laion -o {out}", 1, "give your own by --set threshold=NUMBER"),
        ("filter {scores} --recipe laion --by width -o {out}", 2, "a recipe says itself"),
        ("filter {scores} --recipe dc --recipe laion -o {out}", 2, "compared by --dry-run only"),
        ("filter {scores} --recipe dc --set side -o {out}", 2, "is not NAME=VALUE"),
        ("filter {scores} --budget 10% -o {out}", 2, "they speak of a --recipe"),
        ("filter {scores} --uniform -o {out}", 1, "--uniform spreads what --top asks for"),
        ("filter {scores} --with none.parquet -o {out}", 1, "cannot be read as Parquet"),
        ("filter {scores} --max-bytes lots -o {out}", 2, "lots is no size: give bytes, or 500MB"),
        ("emit {scores} --keys none.txt -o {out}", 1, "cannot read --keys none.txt: No such file"),
        ("emit {scores} -o {out}", 2, "--keys"),
        ("recipes nosuch", 1, "clipdre has no recipe 'nosuch'"),
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


@pytest.mark.parametrize(
    "command", ["", "score", "filter", "recipes", "emit", "reference", "weigh", "demo"]
)
def test_every_help_has_an_example(command):
    assert "Example:" in succeeded(f"clipdre {command} --help")
