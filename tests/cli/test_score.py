import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.core.scores import MAIN_COLUMNS
from clipdre.formats.folders.manifest import read_manifest
from tests.cli.running import TINY, error_of, printed, rows_of
from tests.helpers import pair, write_tar


def columns_of(folder):
    return pq.read_schema(next((folder / "scores").glob("*.parquet"))).names


def test_prints_the_folder_and_on_stderr_a_summary(run, pool, tmp_path):
    write_tar(tmp_path / "bad.tar", [*pair("x"), ("y.png", b"<html>"), ("y.txt", b"y")])
    found = run(f"score {pool} bad.tar -o s {TINY}")
    assert printed(found) == "s\n"
    assert "302 samples in 4 shards: 301 scored, 1 failed" in found.stderr.splitlines()
    rows = rows_of(found.stderr)
    assert rows["unreadable_image"] == [f"{tmp_path.name}/bad/y", "1"]
    assert rows["score"] == ["5%", "25%", "50%", "75%", "95%", "pool"]
    *quantiles, pool_reliability = [float(value) for value in rows["kl_text"]]
    assert quantiles == sorted(quantiles)
    assert 0.5 < pool_reliability < 0.9
    assert re.search(
        r"mutual information .*: at least \d\.\d\d nats, .* log N = 5\.71", found.stderr
    )
    assert re.search(r"\d+ pairs \(\d+\.\d%\) in \d+ groups are alike on both sides", found.stderr)
    assert re.search(r"mean log ratio of the pool: -?\d+\.\d{3} nats\n", found.stderr)
    for line in (
        "clipdre-tiny knows drawn shapes only: its scores of real images mean nothing",
        "--precision auto: fp32 for this device",
        "error of the reference: none, every score is exact for this pool",
        "Failures (each is a row in s/failures/)",
    ):
        assert line in found.stderr.splitlines()
    assert "samples/s" not in found.stderr  # no progress bar without a terminal


def test_reads_a_list_of_shards_from_stdin(run, pool, tmp_path):
    urls = [f"{path}\n" for path in sorted(pool.glob("*.tar"))[:2]]
    assert printed(run(f"score - -o s {TINY}", stdin="".join(urls))) == "s\n"
    assert read_manifest(tmp_path / "s").rows == 200


def test_scores_embeddings_without_encoding(run, scored, tmp_path):
    options = f"--embeddings {scored[0]}/embeddings --logit-scale 30 --logit-bias -1"
    assert printed(run(f"score {options} -o s")) == "s\n"
    model = read_manifest(tmp_path / "s").model
    assert (model.logit_scale, model.logit_bias) == (30.0, -1.0)


def test_inner_products_go_through_every_command(run, scored, tmp_path):
    folder, lengths = scored[0] / "embeddings", np.random.default_rng(0)
    for path in sorted(folder.glob("*_emb/*.npy")):
        given = np.load(path).astype(np.float32)
        target = tmp_path / "made" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, given * lengths.uniform(0.1, 5, (len(given), 1)).astype(np.float32))
    shutil.copytree(folder / "metadata", tmp_path / "made" / "metadata")
    needed = error_of(run("score --embeddings made --inner-product -o s"), 1)
    assert "pass --logit-scale (1 if inner products are logits)" in needed
    found = run("score --embeddings made --inner-product --logit-scale 2 -o s")
    printed(found)
    assert "(similarity: an inner product)" in found.stderr
    assert "logit scale 2.0 of inner products" in found.stderr
    shown = printed(run("info s"))
    assert "inner product of image and caption" in shown
    assert "Every score is exact" in printed(run("reference s"))
    keys = printed(run("filter s --by log_ratio --top 10 --format keys -o -"))
    assert len(keys.splitlines()) == 10
    printed(run("measure s conformity"))
    printed(run("look s -o page.html"))
    error = error_of(run("score --embeddings made --logit-scale 2 -o s"), 1)
    assert "differs in model inner_product" in error
    error = error_of(run("score --embeddings s --inner-product -o t"), 2)
    assert "drop --logit-scale, --logit-bias and --inner-product" in error


def test_scores_against_another_pool(run, pool, scored, tmp_path):
    found = run(f"score {pool}/00000.tar -o s {TINY} --reference {scored[0]}")
    assert printed(found) == "s\n"
    assert "reference: exact, of 300 pairs" in found.stderr
    assert f"every score is exact for the pool of {scored[0]}" in found.stderr
    assert "mutual information" not in found.stderr  # a bound holds for the pool's own pairs


def test_tau_adds_its_column(run, pool, tmp_path):
    printed(run(f"score {pool}/00000.tar -o s {TINY} --normalize tau --tau 100"))
    assert "log_ratio_tau" in columns_of(tmp_path / "s")


def test_a_sample_reference_comes_with_its_reliability(run, pool, tmp_path):
    found = run(f"score {pool} -o s {TINY} --reference sample --bulk 64")
    printed(found)
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("reliability of ")]
    assert line.endswith("; 'clipdre reference s' lists all columns and checks them against exact")
    least, column = re.match(
        r"reliability of the reference: at least (\S+) \((\w+)\);", line
    ).groups()
    report = json.loads(printed(run("reference s --json")))
    columns = {c["column"]: c["reliability"] for c in report["columns"]}
    assert columns[column] == min(columns[name] for name in columns if name in MAIN_COLUMNS)
    assert 0 <= columns[column] - float(least) < 0.001
    assert "use --reference stratified or exact" in found.stderr


def test_discards_embeddings(run, pool, tmp_path):
    printed(run(f"score {pool}/00000.tar -o s {TINY} --discard-embeddings"))
    assert not (tmp_path / "s" / "embeddings").exists()


def test_runs_again_only_with_the_same_settings_or_overwrite(run, pool, tmp_path):
    write_tar(tmp_path / "a.tar", [*pair("x", title="one"), *pair("y", seed=1, title="two")])
    command = f"score a.tar -o s {TINY}"
    assert printed(run(command)) == printed(run(command)) == "s\n"
    error = error_of(run(f"{command} --text-key json:title"), 1)
    assert "differs in read caption_field" in error
    assert error.endswith("choose another --output, or pass --overwrite")
    assert printed(run(f"{command} --text-key json:title --overwrite")) == "s\n"
    (table,) = [pq.read_table(path) for path in (tmp_path / "s" / "scores").glob("*.parquet")]
    assert table["caption"].to_pylist() == ["one", "two"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "{empty}",
            "no .tar files in {empty} and its subfolders: pass the folder that holds the shards",
        ),
        ("nowhere.tar", "no such shard or folder: nowhere.tar: check the path"),
        ("{pool} --model ViT-B-33", "unknown model ViT-B-33: did you mean ViT-B-32"),
        ("{pool} --model ViT-B-32 --pretrained a/b.pt", "a/b.pt"),
        ("{pool} {tiny} --reference {pool}", "is not a score folder (no manifest.json): make one"),
        ("--embeddings {pool}", "holds no embeddings in a known layout: expected "),
        ("--embeddings {scores}/embeddings", "pass --logit-scale (100 for most CLIP models)"),
        ("{bad} {tiny} --max-bad-fraction 0.4", "--max-bad-fraction"),
        (
            "{pool}/00000.tar {tiny} --text-key json:title",
            "no pair is usable: 100 of 100 samples failed for missing_caption (",
        ),
    ],
)
def test_input_that_cannot_be_scored_is_refused(run, pool, scored, tmp_path, options, message):
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "bad.tar", [*pair("x"), ("y.png", b"<html>"), ("y.txt", b"y")])
    names = {
        "empty": tmp_path / "empty",
        "pool": pool,
        "scores": scored[0],
        "bad": tmp_path / "bad.tar",
        "tiny": TINY,
    }
    error = error_of(run(f"score {options.format(**names)} -o out"), 1)
    assert message.format(**names) in error


def test_an_output_that_is_something_else_is_refused(run, pool):
    error = error_of(run(f"score {pool} -o {pool} {TINY}"), 1)
    assert error == f"{pool} exists and is not a score folder: choose another --output"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("x.tar", "no --output: name a folder for the scores, or add --dry-run"),
        ("-o out", "nothing to score: name shards, or --embeddings"),
        (
            "x.tar -o out --reference nowhere",
            "--reference nowhere is neither a method nor a folder: use auto, exact, stratified, "
            "sample, or the path of a score folder",
        ),
        (
            "x.tar -o out --normalize tau",
            "--normalize tau needs a number of negatives: add --tau",
        ),
    ],
)
def test_wrong_usage(run, tmp_path, options, message):
    assert error_of(run(f"score {options}"), 2) == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "x.tar --logit-scale 5",
            "--logit-scale can only be used with --embeddings, since a model has its own: "
            "add --embeddings, or drop --logit-scale",
        ),
        (
            "x.tar --logit-bias 0",
            "--logit-bias can only be used with --embeddings, since a model has its own: "
            "add --embeddings, or drop --logit-bias",
        ),
        (
            "x.tar --inner-product",
            "--inner-product can only be used with --embeddings, since a model has its own kind: "
            "add --embeddings, or drop --inner-product",
        ),
        (
            "x.tar --arch l14",
            "--arch can only be used with --embeddings: add --embeddings, or drop --arch",
        ),
        (
            "x.tar --reference exact --neighbors 5",
            "--neighbors cannot be used with --reference exact: "
            "drop --neighbors, or change --reference",
        ),
        (
            "x.tar --reference sample --neighbors 5",
            "--neighbors cannot be used with --reference sample: "
            "drop --neighbors, or change --reference",
        ),
        (
            "x.tar --reference folder --neighbors 5",
            "--neighbors cannot be used with --reference PATH: "
            "drop --neighbors, or change --reference",
        ),
        (
            "x.tar --reference exact --bulk 64",
            "--bulk cannot be used with --reference exact: drop --bulk, or change --reference",
        ),
        (
            "x.tar --reference folder --bulk 64",
            "--bulk cannot be used with --reference PATH: drop --bulk, or change --reference",
        ),
        (
            "x.tar --tau 5",
            "--tau can only be used with --normalize tau: set --normalize to tau, or drop --tau",
        ),
        (
            "x.tar --tau 5 --normalize reference",
            "--tau can only be used with --normalize tau: set --normalize to tau, or drop --tau",
        ),
        *(
            (
                f"--embeddings folder {option}",
                f"{option.split()[0]} cannot be used with --embeddings, which are encoded already: "
                f"drop {option.split()[0]} or --embeddings",
            )
            for option in (
                "--model ViT-L-14",
                "--pretrained openai",
                "--precision fp16",
                "--decode fast",
                "--batch-size 256",
                "--workers 4",
                "--image-key jpg",
                "--text-key txt",
                "--max-member-bytes 5",
                "--max-json-bytes 5",
                "--max-caption-bytes 5",
                "--max-pixels 5",
            )
        ),
        (
            "x.tar --embeddings folder",
            "SHARDS cannot be used with --embeddings, which are encoded already: "
            "drop SHARDS or --embeddings",
        ),
    ],
)
def test_an_option_that_would_not_be_used_is_refused(run, tmp_path, option, message):
    (tmp_path / "folder").mkdir()
    assert error_of(run(f"score {option} -o out"), 2) == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--neighbors 64 --bulk 64", "--reference stratified --bulk 64"])
def test_options_of_the_reference_in_use_are_accepted(run, option):
    assert error_of(run(f"score nowhere.tar -o out {option}"), 1).startswith("no such shard")


class TestSecondRuns:
    @pytest.fixture
    def grown(self, run, pool, tmp_path):
        """A pool of one shard, scored, to which another one was added."""
        (tmp_path / "pool").mkdir()
        shutil.copy2(pool / "00000.tar", tmp_path / "pool")
        printed(run(f"score pool -o s {TINY}"))
        shutil.copy2(pool / "00001.tar", tmp_path / "pool")

    def test_a_pool_grows(self, run, grown):
        found = run(f"score pool -o s {TINY}")
        assert printed(found) == "s\n"
        assert "encoding 1 of 2 shards" in found.stderr
        assert "reference: exact, of 200 pairs" in found.stderr

    def test_shards_that_are_dropped_are_named_without_their_controls(self, run, pool, tmp_path):
        (tmp_path / "odd").mkdir()
        for name in ("a", "\x1b[2J\nb"):
            shutil.copy2(pool / "00000.tar", tmp_path / "odd" / f"{name}.tar")
        printed(run(f"score odd -o s {TINY}"))
        (tmp_path / "odd" / "\x1b[2J\nb.tar").unlink()
        found = run(f"score odd -o s {TINY} --prune --log-file log")
        line = "dropping 100 rows of shards that are gone or have changed: \ufffd[2J b"
        assert line in found.stderr
        assert line in (tmp_path / "log").read_text()

    def test_a_reference_is_kept(self, run, grown):
        found = run(f"score pool -o s {TINY} --keep-reference")
        assert printed(found) == "s\n"
        said = "scored against the 100 pairs of the pool as it was; 100 rows came later"
        assert said in " ".join(found.stderr.split())
        shown = json.loads(printed(run("info s --json")))
        assert (shown["keeps_reference"], shown["rows_after_reference"]) == (True, 100)
        assert shown["reference"]["pairs"] == 100

    def test_shards_that_are_gone_are_named(self, run, grown, tmp_path):
        (tmp_path / "pool" / "00000.tar").unlink()
        error = error_of(run(f"score pool -o s {TINY}"), 1)
        assert f"these SHARDS do not hold: 00000 ({tmp_path}/pool/00000.tar)" in error
        assert "give all SHARDS of the pool, wherever they are now; pass --prune to drop" in error
        (tmp_path / "pool" / "00002.tar").symlink_to(tmp_path / "pool" / "00001.tar")
        assert "00000" in error_of(run(f"score pool -o s {TINY} --keep-reference"), 1)

    def test_a_score_folder_is_scored_again_from_its_embeddings(self, run, grown):
        found = run("score --embeddings s -o again --reference sample --bulk 64")
        assert printed(found) == "again\n"
        assert "reference: sample, of 100 pairs" in found.stderr
        assert printed(run("filter again --by similarity --top 5 -o kept")) == "kept\n"
        error = error_of(run("score --embeddings s -o again --logit-scale 50"), 2)
        assert "records the scale and bias of its model, and whether it has inner products" in error

    @pytest.mark.parametrize(
        "options",
        ["--keep-reference --overwrite", "--prune --overwrite", "--keep-reference --bulk 64"],
    )
    def test_options_that_contradict_each_other_are_refused(self, run, grown, options):
        error = error_of(run(f"score pool -o s {TINY} {options}"), 2)
        assert "cannot be used with" in error


def test_keeps_fields_of_json_as_columns(run, tmp_path):
    (tmp_path / "pool").mkdir()
    members = [m for n in range(4) for m in pair(f"{n}", seed=n, punsafe=n / 4, LANGUAGE="en")]
    write_tar(tmp_path / "pool" / "a.tar", members)
    printed(run(f"score pool -o s {TINY} --keep json:punsafe,json:LANGUAGE"))
    where = "punsafe < 0.6 AND LANGUAGE = 'en'"
    kept = printed(run(f'filter s --where "{where}" --by punsafe --top 2 --format keys -o -'))
    assert kept.splitlines() == ["a/1", "a/2"]
    error = error_of(run(f"score pool -o s {TINY}"), 1)
    assert error.startswith("s holds a run that differs in read keep (")
    assert "--keep cannot be used" in error_of(run("score --embeddings s -o t --keep json:a"), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        "nowhere -o {out}",
        "{pool} -o {out} --model ViT-B-33",
        "{pool} -o {out} --model ViT-B-32 --pretrained ./nowhere.pt",
        "{pool} -o {pool}",
        "{pool} -o {out} --reference nowhere",
        "{pool} -o {out} --logit-scale 5",
    ],
)
def test_mistakes_are_reported_before_torch_is_imported(arguments, scored, tmp_path):
    """Importing it takes seconds."""
    code = (
        "import sys; from clipdre.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: sys.exit(3 if 'torch' in sys.modules else 4)"
    )
    pool = scored[1].shards[0].url
    given = ["score", *arguments.format(pool=Path(pool).parent, out=tmp_path / "out").split()]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, check=False)
    assert done.stderr.startswith(b"clipdre: error:")
    assert done.returncode == 4


def test_slices_encode_and_the_same_command_without_them_scores(run, pool, tmp_path, monkeypatch):
    first = run(f"score {pool} -o s {TINY} --slice 1/2")
    assert printed(first) == ""
    assert "slice 1/2 is encoded: 2 shards, 200 samples" in first.stderr.splitlines()
    assert "the same command without --slice encodes what is missing and scores" in first.stderr
    monkeypatch.setenv("CLIPDRE_SLICE", "2/2")
    second = run(f"score {pool} -o s {TINY} --slice auto")
    assert printed(second) == ""
    assert "slice 2/2 is encoded: 1 shard, 100 samples" in second.stderr.splitlines()
    assert "sets no option" not in second.stderr
    assert printed(run(f"score {pool} -o s {TINY}")) == "s\n"
    assert read_manifest(tmp_path / "s").rows == 300


def test_refused_slices_write_nothing(run, pool, tmp_path):
    for part, problem in (
        ("3/2", "--slice 3/2 does not exist: use one of 1/2 to 2/2"),
        ("auto", "--slice auto finds neither CLIPDRE_SLICE nor a SLURM job array"),
        ("1/2 --overwrite", "--slice cannot be used with --overwrite"),
        ("1/2 --dry-run", "--slice cannot be used with --dry-run"),
    ):
        assert problem in error_of(run(f"score {pool} -o s {TINY} --slice {part}"), 2)
        assert not (tmp_path / "s").exists()


def test_a_cluster_that_is_not_there_is_one_line(run, pool, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'clipdre[ray]'")
    for options, problem, code in (
        ("--engine ray --address 127.0.0.1:1", "no Ray cluster at 127.0.0.1:1", 1),
        ("--address 127.0.0.1:1", "--address can only be used with --engine ray", 2),
        ("--cpus-per-worker 2", "--cpus-per-worker can only be used with --engine ray", 2),
        ("--engine ray --workers 2", "--workers cannot be used with --engine ray", 2),
    ):
        assert problem in error_of(run(f"score {pool} -o s {TINY} {options}"), code)
        assert not (tmp_path / "s").exists()
