import json

import numpy as np

from tests.cli.running import printed, rows_of
from tests.helpers import read_scores

TWO = "--recipe log-ratio --recipe kl --budget 20% --dry-run"


def test_a_dry_run_writes_nothing(run, scored, tmp_path):
    found = run(f"filter {scored[0]} --by log_ratio --top 25% -o kept --dry-run")
    assert printed(found).splitlines()[0] == "would keep 75 of 300 pairs (25.0%)"
    assert found.stderr == ""
    assert not list(tmp_path.iterdir())


def test_its_tables_show_steps_means_and_shards(run, scored):
    table = read_scores(*scored)
    values = table["kl_text"].to_numpy()
    order = np.argsort(-values, kind="stable")[:60]
    found = run(f"filter {scored[0]} --by kl_text --top 60 --dry-run")
    rows = rows_of(found.stdout)
    assert rows["top by kl_text"] == ["300", "300", "0", "60", "60", str(values[order[-1]])]
    assert rows["kl_text"] == [f"{values.mean():.4g}", f"{values[order].mean():.4g}"]
    for n in range(3):
        kept = int((order // 100 == n).sum())
        assert rows[f"{n:05d}"] == ["100", f"{kept}", f"{kept / 100:.1%}"]
    captions = [table["caption"][int(n)].as_py() for n in order]
    repeated = 1 - len(set(captions)) / 60
    assert f"repeated among the kept: {repeated:.1%} of captions, 0.0% of uids" in found.stdout


def test_several_recipes_are_compared(run, scored, tmp_path):
    found = run(f"filter {scored[0]} {TWO}")
    assert found.stderr == ""
    for text in (
        "kl: would keep 60 of 300 pairs (20.0%)",
        "log-ratio: mean log ratio ",
        "log-ratio: what each step keeps",
        "kl: kept of each shard",
        "kl: repeated among the kept",
        "(Jaccard)",
        "kept by one recipe alone",
    ):
        assert text in printed(found), text
    assert not list(tmp_path.iterdir())


def test_json_agrees_with_the_keys_that_are_kept(run, scored):
    kept = {}
    for name in ("log-ratio", "kl"):
        command = f"filter {scored[0]} --recipe {name} --budget 20% --format keys -o -"
        kept[name] = set(printed(run(command)).splitlines())
    found = json.loads(printed(run(f"filter {scored[0]} {TWO} --json")))
    assert [selection["name"] for selection in found["selections"]] == list(kept)
    assert [selection["kept"] for selection in found["selections"]] == [60, 60]
    a, b = kept.values()
    (pair,) = found["jaccard"]
    assert (pair["a"], pair["b"]) == ("log-ratio", "kl")
    assert pair["jaccard"] == len(a & b) / len(a | b)
    alone = {name: only["rows"] for name, only in found["only"].items()}
    assert alone == {"log-ratio": len(a - b), "kl": len(b - a)}


def test_json_of_one_selection_compares_nothing(run, scored):
    found = json.loads(printed(run(f"filter {scored[0]} --sample 30 --dry-run --json")))
    assert list(found) == ["selections"]
    (selection,) = found["selections"]
    assert sum(kept for _, _, kept in selection["shards"]) == 30
