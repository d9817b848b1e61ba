import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.running import error_of, printed
from tests.helpers import read_scores


@pytest.fixture
def truth(scored, tmp_path):
    """A table that knows which pairs are good: those of one shard."""
    table = read_scores(*scored)
    kind = pa.array(["good" if name == "00001" else "bad" for name in table["shard"].to_pylist()])
    columns = {"shard": table["shard"], "key": table["key"], "kind": kind}
    pq.write_table(pa.table(columns), tmp_path / "truth.parquet")
    return """--with truth.parquet --truth "kind = 'good'" """


def test_shows_how_recipes_differ(run, scored, truth, tmp_path):
    before = set(tmp_path.iterdir())
    found = run(f"compare {scored[0]} log-ratio kl --budget 20% {truth}")
    assert re.search(r" kl +60 +20\.0% ", printed(found))
    for text in (
        "what is kept",
        "rows    share   precision   recall",
        "(Jaccard)",
        "kept by one recipe alone",
        "means",
        "rank correlations (Spearman), 300 pairs of the pool",
        "diversity: effective rank (participation ratio), 60 pairs of each",
    ):
        assert text in found.stdout, text
    assert " 300   100.0%      0.3333        1" in found.stdout
    assert "joined truth.parquet by shard and key: 300 of 300 pairs" in found.stderr
    assert set(tmp_path.iterdir()) == before


def test_json_agrees_with_the_dry_run(run, scored, truth):
    names = ("log-ratio", "kl", "./mine.toml")
    Path("mine.toml").write_text(printed(run("recipes dc")))
    found = json.loads(printed(run(f"compare {scored[0]} {' '.join(names)} {truth} --json")))
    several = " ".join(f"--recipe {name}" for name in names)
    dry = json.loads(printed(run(f"filter {scored[0]} {several} --dry-run --json")))
    assert found["jaccard"] == dry["jaccard"]
    assert found["only"] == dry["only"]
    for own in dry["selections"]:
        subset = found["subsets"][own["name"]]
        assert subset["rows"] == own["kept"]
        assert subset["means"]["kl_text"] == pytest.approx(own["means"]["kl_text"][1])
        good = {shard: kept for shard, _, kept in own["shards"]}["00001"]
        assert (subset["precision"], subset["recall"]) == (good / own["kept"], good / 100)
    assert len(found["correlations"]) == len(found["columns"])
    assert set(found["pool"]["diversity"]) == {"image", "text"}
    assert found["problem"] is None


def test_says_why_there_is_no_diversity(run, scores):
    shutil.rmtree(scores / "embeddings")
    found = run(f"compare {scores} log-ratio kl")
    assert "no diversity: " in printed(found)
    assert "keeps no embeddings" in found.stdout


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("kl", 2, "there are fewer than two selections to compare: pass at least two"),
        ("kl kl", 2, "two selections have the same name"),
        ("kl dc --on key", 2, "--on can only be used with --with"),
        ("kl dc --truth 'nope = 1'", 1, "cannot use --truth 'nope = 1': there is no column nope"),
        ("kl normsm", 1, "clipdre has no recipe 'normsm'"),
        ("kl negcliploss-normsim", 1, "normsim --target TARGET'"),
    ],
)
def test_mistakes_are_named(run, scored, options, code, message):
    assert message in error_of(run(f"compare {scored[0]} {options}"), code)
