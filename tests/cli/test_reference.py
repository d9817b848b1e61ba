import json
import math
import shutil

import pytest

from tests.cli.running import TINY, error_of, printed
from tests.helpers import read_scores


def test_shows_how_reliable_each_column_is_on_stdout(run, scored):
    found = run(f"reference {scored[0]}")
    text = printed(found)
    assert found.stderr == ""
    assert text.startswith("Exact reference of 300 pairs for 300 rows (nats; reliability of ")
    mean = read_scores(*scored)["log_ratio"].to_numpy().mean()
    columns, *_ = [line.split() for line in text.splitlines() if line.startswith(" log_ratio ")]
    assert columns[1] == f"{mean:.3f}"
    assert columns[3:] == ["0.0000", "1.0000"]
    assert f"log N = {math.log(299):.2f} nats: the largest KL over this reference" in text
    assert "Every score is exact for this pool" in text


def test_an_approximate_reference_is_checked_against_exact(run, pool):
    printed(run(f"score {pool} -o s {TINY} --reference sample --bulk 64"))
    found = run("reference s")
    text = printed(found)
    assert "Sample reference of 300 pairs for 300 rows (nats; " in text
    assert "root mean square error against exact (nats)" in text
    assert "; bulk: 64 pairs in 16 folds" in text
    assert "score with --reference stratified or exact" in text
    assert "`" not in text


def test_plots_estimated_against_exact(run, scored, tmp_path):
    found = run(f"reference {scored[0]} --plot a.png")
    printed(found)
    assert found.stderr == "picture: a.png\n"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_for_machines(run, scored):
    found = json.loads(printed(run(f"reference {scored[0]} --json")))
    assert found["record"]["method"] == "exact"
    assert found["rows"] == 300
    assert {column["column"] for column in found["columns"]} >= {"log_ratio", "kl_image"}
    assert all(column["reliability"] == 1 for column in found["columns"])


def test_nothing_to_plot_without_embeddings(run, scores):
    shutil.rmtree(scores / "embeddings")
    found = run("reference scores --json --plot a.png")
    assert found.exit_code == 1
    assert found.stderr == (
        "clipdre: error: nothing to plot: the pool's own embeddings and reference are not kept: "
        "score without --reference PATH and --discard-embeddings\n"
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("{pool}", 1, "is not a score folder (no manifest.json): make one with 'clipdre score'"),
        ("{scores} --plot a.pdf", 2, "--plot a.pdf is not a picture: name a .png or .svg file"),
        ("", 2, "missing argument SCORES: see 'clipdre reference --help'"),
    ],
)
def test_wrong_usage(run, pool, scored, options, code, message):
    error = error_of(run(f"reference {options.format(pool=pool, scores=scored[0])}"), code)
    assert error.endswith(message)
