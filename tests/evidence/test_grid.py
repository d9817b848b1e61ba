"""Grids of students resume, and what is kept is what clipdre selects."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipdre
import evidence
from evidence import benches
from evidence.benches import WorldBench
from evidence.grid import cells, kept, run
from evidence.own import OwnBench, read_pairs
from evidence.pools import PoolPlan
from evidence.stored import Cell, Results
from evidence.students import Recipe
from evidence.subsets import FILTERS
from evidence.teachers import TEACHERS, Teacher
from evidence.worlds import SMALL

RECIPE = Recipe(steps=3, batch=16)
PLAN = PoolPlan("tiny", SMALL, 200)
ROOT = Path(evidence.__file__).parents[1]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A bench whose teacher has learned next to nothing, in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEACHERS, "own", Teacher(clean=False, steps=5))
        patch.setattr(benches, "TEST_PAIRS", 60)
        patch.setattr(benches, "TARGET_PAIRS", 40)
        yield WorldBench(PLAN, tmp_path_factory.mktemp("bench"), RECIPE)


def grid(*rules):
    return cells(["own"], ["everything", "clean at random", *rules], [0.2, 0.4], [0, 1])


def without_time(results):
    return results.table().drop_columns(["seconds"]).to_pylist()


def test_rules_without_a_teacher_are_trained_once():
    found = list(cells(["a", "b"], ["everything", "random", "similarity"], [0.1, 0.2], [0]))
    assert len(found) == 1 + 2 + 2 * 2
    assert Cell("none", "everything", 1.0, 0) in found


def test_a_stopped_grid_resumes_and_ends_as_an_unbroken_one(bench, tmp_path):
    whole, broken = Results(tmp_path / "whole.parquet"), Results(tmp_path / "broken.parquet")
    rows = list(run(bench, grid("log_ratio"), whole))
    assert len(rows) == 2 * (1 + 2 + 2)
    stopped = run(bench, grid("log_ratio"), broken)
    assert len([next(stopped), next(stopped)]) == 2
    stopped.close()
    assert without_time(broken) == without_time(whole)[:2]
    assert len(list(run(bench, grid("log_ratio"), broken))) == len(rows) - 2
    assert without_time(broken) == without_time(whole)
    before = broken.path.stat().st_mtime_ns
    assert not list(run(bench, grid("log_ratio"), broken))
    assert broken.path.stat().st_mtime_ns == before


def test_a_grid_killed_after_two_rows_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(benches, "TEST_PAIRS", 60)
    code = (
        "import os, signal; from pathlib import Path; from evidence import benches;"
        "benches.TEST_PAIRS = 60;"
        "from tests.evidence.test_grid import PLAN, RECIPE, grid;"
        "from evidence.benches import WorldBench; from evidence.grid import run;"
        "from evidence.stored import Results;"
        f"rows = run(WorldBench(PLAN, Path({str(tmp_path)!r}), RECIPE), grid(),"
        f" Results(Path({str(tmp_path / 'r.parquet')!r})));"
        "next(rows); next(rows); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    results = Results(tmp_path / "r.parquet")
    assert len(results.table()) == 2
    assert len(list(run(WorldBench(PLAN, tmp_path, RECIPE), grid(), results))) == 4


def test_other_steps_are_other_students(bench, tmp_path):
    results = Results(tmp_path / "r.parquet")
    one = [Cell("none", "random", 0.2, 0)]
    assert len(list(run(bench, iter(one), results))) == 1
    longer = WorldBench(PLAN, bench.folder, Recipe(steps=4, batch=16))
    assert len(list(run(longer, iter(one), results))) == 1


def test_rules_keep_the_rows_that_clipdre_selects(bench):
    scores = bench.scores("own")
    values = scores.to_arrow(["log_ratio", "similarity"])
    for rule in ("log_ratio", "similarity"):
        column = values[rule].to_numpy()
        rows = kept(bench, Cell("own", rule, 0.2, 0))
        assert len(rows) == 40
        assert column[rows].min() >= np.sort(column)[-40]


@pytest.mark.parametrize("rule", FILTERS)
def test_every_rule_keeps_its_budget(bench, rule):
    rows = kept(bench, Cell("own", rule, 0.1, 0))
    assert len(rows) == 20
    assert len(set(rows)) == 20 or rule == "soft-cap"
    assert rows.min() >= 0
    assert rows.max() < 200


def test_the_oracle_keeps_clean_pairs(bench):
    rows = kept(bench, Cell("none", "clean at random", 0.4, 3))
    assert len(set(rows)) == 80
    assert bench.clean[rows].all()
    truth = pq.read_table(bench.folder / "truth.parquet")["kind"].to_pylist()
    assert {truth[row] for row in rows} <= {"clean", "duplicate"}


def test_a_pool_is_read_as_it_was_drawn(bench, tmp_path):
    shards = bench.folder / "shards"
    assert len(bench.pairs) == 200
    scores = clipdre.score(shards, tmp_path / "scores", model="clipdre-tiny", device="cpu")
    found = read_pairs(scores)
    assert found.captions == bench.pairs.captions
    assert (found.images == bench.pairs.images).all()
    own = OwnBench("own", scores, found, RECIPE)
    assert len(own.held_out) == 20
    (row,) = run(own, iter([Cell("m", "everything", 1.0, 0)]), Results(tmp_path / "r.parquet"))
    assert row["kept"] == 180
    assert 0 <= row["accuracy"] <= 1


def test_evidence_uses_public_names_alone():
    """The package, its training, its errors and its truth world."""
    allowed = ("clipdre", "clipdre.training", "clipdre.errors", "clipdre.truth")
    for path in (ROOT / "evidence").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] == "clipdre":
                    assert name in allowed or name.startswith("clipdre.truth."), (path.name, name)
