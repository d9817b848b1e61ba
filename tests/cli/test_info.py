import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from clipdre.core.scores import SCORES
from clipdre.formats.files.storage import REPLACEMENT
from clipdre.formats.folders.manifest import read_manifest
from clipdre.truth.pool import write_pool
from tests.cli.running import TINY, error_of, printed, rows_of
from tests.helpers import pair, read_scores, write_tar


def test_shows_counts_quantiles_and_columns_on_stdout(run, scored):
    found = run(f"info {scored[0]}")
    assert found.stderr == ""
    lines = printed(found).splitlines()
    assert lines[0] == "300 samples in 3 shards: 300 scored, 0 failed"
    assert "Columns" in lines
    rows = rows_of(found.stdout)
    values = read_scores(*scored)["kl_text"].to_numpy()
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    assert rows["kl_text"][0] == "nats"  # the last table, of columns, has a row of that name too
    quantiles = next(line.split() for line in lines if line.startswith(" kl_text"))[1:]
    assert [float(q) for q in quantiles] == pytest.approx(np.quantile(values, shares), abs=6e-4)
    mean = read_scores(*scored)["log_ratio"].to_numpy().mean()
    assert f"mean log ratio of the pool: {mean:.3f} nats" in found.stdout
    assert "model: clipdre-tiny, fp32, logit scale 30.1" in lines
    assert "reference: exact, of 300 pairs" in lines
    assert "every score is exact for this pool" in found.stdout
    (disk,) = [line for line in lines if line.startswith("on disk: ")]
    assert re.fullmatch(r"on disk: [\d.]+ [kM]B \((\w+ [\d.]+ [kM]B, )+\w+ [\d.]+ [kM]B\)", disk)


def test_explains_every_column(run, scored):
    text = " ".join(printed(run(f"info {scored[0]}")).split())
    for score in SCORES:
        if not score.needs_tau:
            assert score.column.name in text
            assert score.column.meaning.split()[0] in text
    assert "neither" not in text


def test_failures_are_counted_by_reason(run, tmp_path):
    write_tar(
        tmp_path / "a.tar", [*pair("x"), *pair("w", seed=1), ("y.png", b"<"), ("y.txt", b"y")]
    )
    printed(run(f"score a.tar -o s {TINY}"))
    found = run("info s")
    assert "3 samples in 1 shard: 2 scored, 1 failed" in printed(found).splitlines()
    assert rows_of(found.stdout)["unreadable_image"] == ["a/y", "1"]
    assert "Failures (each is a row in s/failures/)" in found.stdout.splitlines()
    machine = json.loads(printed(run("info s --json")))
    assert machine["failures"] == {"unreadable_image": 1}
    example = machine["failure_examples"]["unreadable_image"]
    assert (example["shard"], example["key"]) == ("a", "y")


@pytest.fixture
def stopped(scores):
    """Scores as a run leaves them that was killed while it encoded the last of three shards."""
    manifest = read_manifest(scores)
    shards = tuple(replace(s, rows=0, failures={}) for s in manifest.shards)
    replace(manifest, shards=shards, reference=None, complete=False).write(scores)
    (scores / "failures" / "00001.parquet").unlink()
    (scores / "embeddings" / "metadata" / "metadata_2.parquet").unlink()
    for name in ("scores", "reference", "columns"):
        shutil.rmtree(scores / name)
    return scores


def test_an_unfinished_run_shows_how_far_it_is(run, stopped, scored):
    first = scored[1].shards[0].nbytes
    share = f"{first / sum(shard.nbytes for shard in scored[1].shards):.0%}"
    lines = printed(run(f"info {stopped}")).splitlines()
    assert lines[0] == "this run is unfinished: run the same 'clipdre score' again, it resumes"
    assert lines[1].startswith("encoded: 1 of 3 shards, ")
    assert lines[1].endswith(f" ({share})")
    assert "with scores: 0 of 3 shards" in lines
    assert "100 samples in 3 shards: 100 scored, 0 failed" in lines
    found = json.loads(printed(run(f"info {stopped} --json")))
    assert found["complete"] is False
    assert found["unfinished"]["encoded_nbytes"] == first
    parts = ("shards", "encoded", "scored", "rows", "failures")
    assert [found["unfinished"][name] for name in parts] == [3, 1, 0, 100, {}]


def test_scores_that_are_being_replaced_are_shown_with_the_new_ones(run, stopped, scored):
    folder = stopped.parent / "whole"
    shutil.copytree(scored[0], folder)
    stopped.rename(folder / REPLACEMENT)
    lines = printed(run(f"info {folder}")).splitlines()
    assert lines[0] == "300 samples in 3 shards: 300 scored, 0 failed"
    assert "Columns" in lines
    at = next(n for n, line in enumerate(lines) if line.startswith("the scores that are to repl"))
    assert lines[at + 1].startswith("encoded: 1 of 3 shards, ")
    found = json.loads(printed(run(f"info {folder} --json")))
    assert found["complete"] is True
    assert found["rows"] == 300
    assert found["unfinished"]["rows"] == 100


def test_quantiles_are_kept_and_computed_for_older_scores(run, scores):
    before = json.loads(printed(run(f"info {scores} --json")))["quantiles"]
    manifest = read_manifest(scores)
    assert {name: list(values) for name, values in manifest.quantiles.items()} == before
    replace(manifest, quantiles={"kl_text": (0.0, 1.0, 2.0, 3.0, 4.0)}).write(scores)
    again = json.loads(printed(run(f"info {scores} --json")))["quantiles"]
    assert again == {**before, "kl_text": [0, 1, 2, 3, 4]}
    assert list(again) == list(before)


def test_json_is_for_machines(run, scored):
    found = json.loads(printed(run(f"info {scored[0]} --json")))
    table = read_scores(*scored)
    assert (found["shards"], found["samples"], found["rows"]) == (3, 300, 300)
    assert found["model"]["name"] == "clipdre-tiny"
    assert found["reference"]["method"] == "exact"
    assert found["least_reliable"]["reliability"] == 1
    bound = table["negcliploss"].to_numpy().astype(float).mean()
    files = sorted((scored[0] / "columns/near-duplicates").glob("*.parquet"))
    groups = np.concatenate([pq.read_table(file)["duplicate_group"].to_numpy() for file in files])
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    assert sizes.max() > 1
    bound -= np.log(sizes[group]).mean()  # copies left out of the loss count here
    assert found["mutual_information"]["at_least"] == pytest.approx(bound, rel=1e-5)
    assert found["mutual_information"]["at_most_shown"] == pytest.approx(np.log(300))
    assert found["duplicates"]["alike"] == 0.95
    assert 0 < found["duplicates"]["groups"] < found["duplicates"]["pairs"]
    names = [*table.column_names, "duplicate_group", "duplicate_rank"]
    assert [column["name"] for column in found["columns"]] == names
    middle = found["probabilities"].index(0.5)
    expected = np.median(table["log_ratio"].to_numpy())
    assert found["quantiles"]["log_ratio"][middle] == pytest.approx(expected, rel=1e-6)


def test_a_pool_of_wrong_captions_shows_no_mutual_information(run, tmp_path):
    write_pool(tmp_path / "pool", 40, seed=3, noise={"mismatched": 1.0})
    printed(run(f"score pool -o s {TINY}"))
    lines = printed(run("info s")).splitlines()
    (line,) = [line for line in lines if line.startswith("mutual information")]
    assert re.search(r": not shown by this pool \(InfoNCE's bound is -\d+\.\d\d nats\)$", line)
    assert any("are the captions shuffled" in line for line in lines)
    found = json.loads(printed(run("info s --json")))
    assert found["mutual_information"]["at_least"] < 0
    assert found["pool_reliability"].keys() > {"log_ratio", "kl_text"}


def test_a_measured_column_is_described(run, scores):
    printed(run("measure scores prompt-weight --prompt 'a red circle'"))
    columns = json.loads(printed(run("info scores --json")))["columns"]
    (weight,) = [column for column in columns if column["name"] == "prompt_weight"]
    assert weight["meaning"] == "importance weight for a red circle; mean 1"


@pytest.mark.parametrize("folder", ["nowhere", "{pool}"])
def test_a_folder_without_scores_is_refused(run, pool, folder):
    folder = folder.format(pool=pool)
    error = error_of(run(f"info {folder}"), 1)
    assert error == (
        f"{folder} is not a score folder (no manifest.json): make one with 'clipdre score'"
    )


def test_wrong_usage(run):
    assert error_of(run("info"), 2) == "missing argument SCORES: see 'clipdre info --help'"
