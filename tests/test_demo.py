import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.demo import RANDOM, RATIO_THEN_KL, RECOMMENDED, demo_encode_config, run_demo
from clipdre.errors import OutputError
from clipdre.truth.pool import NOISE


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return run_demo(folder, pairs=10_000, seed=3, encode=demo_encode_config("cpu", 2))


def test_a_stopped_demo_starts_over_in_its_folder_and_no_other_does(tmp_path, monkeypatch):
    def demo(seed=1):
        return run_demo(tmp_path / "demo", 500, seed, demo_encode_config("cpu", 2))

    with monkeypatch.context() as patched:
        patched.setattr("clipdre.demo._write_subset", stop)
        with pytest.raises(KeyboardInterrupt):
            demo()
    (tmp_path / "demo" / ".unfinished-host-1-0123abcd-x").write_text("half")
    with pytest.raises(OutputError, match="is not empty"):
        demo(seed=2)
    assert demo().pool.complete
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "clean",
        "page.html",
        "pool",
        "scores-clean",
        "scores-pool",
        "subset",
        "truth",
    ]
    with pytest.raises(OutputError, match="is not empty"):
        demo()


def stop(*_):
    raise KeyboardInterrupt


def test_embedded_model_recovers_the_truth_on_6000_new_pairs(report):
    assert report.clean.rows == 6000
    assert report.clean.reference.method == "exact"
    found = {agreement.column: agreement for agreement in report.agreements}
    assert found["kl_text"].pearson >= 0.99
    assert found["kl_image"].pearson >= 0.85
    assert found["log_ratio"].pearson >= 0.92
    for column in ("kl_text", "kl_image"):
        mean = found[column].estimated.mean()
        assert mean == pytest.approx(found[column].true.mean(), rel=0.02), column


def test_log_ratio_removes_pairs_that_do_not_match(report):
    kept = report.kept["log_ratio"]
    for kind in ("mismatched", "uninformative", "blank"):
        assert kept[kind] < 0.05, kind
    assert report.purity["log_ratio"] > 0.95
    assert report.information[RATIO_THEN_KL] > report.information[RANDOM] + 2


def test_random_choice_keeps_a_quarter_of_every_kind(report):
    for kind, share in report.kept[RANDOM].items():
        size = report.pool.rows * NOISE.get(kind, 0.5)
        assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / size), kind


def test_rules_keep_what_a_plain_sort_of_the_files_keeps(report):
    files = sorted((report.folder / "scores-pool" / "scores").glob("*.parquet"))
    rows = pa.concat_tables(pq.read_table(f).replace_schema_metadata(None) for f in files)
    truths = pq.read_table(report.folder / "truth" / "pool.parquet").to_pylist()
    by_key = {(truth["shard"], truth["key"]): truth for truth in truths}
    rows = [row | by_key[row["shard"], row["key"]] for row in rows.to_pylist()]

    def top(rows, column, n):
        return sorted(rows, key=lambda row: (-row[column], row["key_hash"]))[:n]

    kept = {name: top(rows, name, report.budget) for name in ("similarity", "log_ratio", "kl_text")}
    wide = top(rows, "log_ratio", round(1.8 * report.budget))
    kept[RATIO_THEN_KL] = top(wide, "kl_text", report.budget)
    rows = grouped(rows, report)
    kept[RECOMMENDED] = top(rows, "less_for_copies", report.budget)
    groups = {(row["shard"], row["key"]): row["duplicate_group"] for row in rows}
    for name, chosen in kept.items():
        clean = [row for row in chosen if row["kind"] in ("clean", "duplicate")]
        assert report.purity[name] == pytest.approx(len(clean) / report.budget), name
        nats = sum(row["true_log_ratio"] for row in clean) / report.budget
        assert report.information[name] == pytest.approx(nats), name
        differ = {groups[row["shard"], row["key"]] for row in clean}
        assert report.distinct[name] == pytest.approx(len(differ) / report.budget), name
        for kind, share in report.kept[name].items():
            counts = [sum(row["kind"] == kind for row in some) for some in (chosen, rows)]
            assert share == pytest.approx(counts[0] / counts[1]), (name, kind)


def grouped(rows, report):
    """Add the groups of alike pairs, and the ratio that copies share."""
    files = sorted((report.folder / "scores-pool" / "columns").glob("near-duplicates/*.parquet"))
    groups = pa.concat_tables(pq.read_table(file) for file in files).to_pylist()
    found = [row | group for row, group in zip(rows, groups, strict=True)]
    for row in found:
        row["less_for_copies"] = min(row["log_ratio"], row["log_ratio"] / row["duplicate_rank"])
    return found


def test_the_recommended_rule_keeps_more_distinct_pairs(report):
    assert report.purity[RECOMMENDED] > 0.98
    for name in report.distinct.keys() - {RECOMMENDED}:
        assert report.distinct[RECOMMENDED] > report.distinct[name] + 0.15, name


def test_every_rule_keeps_the_same_budget_and_undecodable_files_are_failures(report):
    planted = round(NOISE["undecodable"] * 10_000)
    assert report.pool.samples == 10_000
    assert report.pool.rows == 10_000 - planted
    assert report.budget == 2488  # a quarter of 9950, rounded half up
    sizes = {kind: round(share * 10_000) for kind, share in NOISE.items() if kind != "undecodable"}
    sizes["clean"] = report.pool.rows - sum(sizes.values())
    for rule, kept in report.kept.items():
        assert round(sum(kept[kind] * n for kind, n in sizes.items())) == report.budget, rule


def test_folder_holds_pools_scores_and_subset(report):
    assert {path.name for path in report.folder.iterdir()} == {
        "clean",
        "page.html",
        "pool",
        "truth",
        "scores-clean",
        "scores-pool",
        "subset",
    }
    tables = [pq.read_table(path) for path in (report.folder / "subset").glob("*.parquet")]
    assert sum(len(table) for table in tables) == report.budget
    assert (report.folder / "subset" / "summary.json").exists()


def test_refuses_a_folder_that_is_not_empty(report):
    with pytest.raises(OutputError, match="not empty: choose a new folder"):
        run_demo(report.folder, pairs=500, seed=0, encode=demo_encode_config("cpu", 2))
