import os

import pytest

from clipdre.demo import RATIO_THEN_KL, demo_encode_config, run_demo
from clipdre.errors import OutputError
from clipdre.truth.pool import NOISE


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return run_demo(folder, pairs=10_000, seed=3, encode=demo_encode_config("cpu", 2))


def test_the_embedded_model_meets_its_figures_on_6000_fresh_pairs(report):
    assert report.clean.rows == 6000
    assert report.clean.reference["method"] == "exact"
    found = {agreement.column: agreement for agreement in report.agreements}
    assert found["kl_text"].pearson >= 0.99
    assert found["kl_image"].pearson >= 0.85
    assert found["log_ratio"].pearson >= 0.92
    for column in ("kl_text", "kl_image"):
        mean = found[column].estimated.mean()
        assert mean == pytest.approx(found[column].true.mean(), rel=0.02), column


def test_the_density_ratio_removes_what_does_not_match(report):
    kept = report.kept["log_ratio"]
    for kind in ("mismatched", "uninformative", "blank"):
        assert kept[kind] < 0.05, kind
    assert report.purity["log_ratio"] > 0.95
    assert report.information[RATIO_THEN_KL] > report.information["at random"] + 2


def test_every_rule_keeps_the_same_budget_and_undecodable_files_are_failures(report):
    planted = round(NOISE["undecodable"] * 10_000)
    assert report.pool.samples == 10_000
    assert report.pool.rows == 10_000 - planted
    sizes = {kind: round(share * 10_000) for kind, share in NOISE.items() if kind != "undecodable"}
    sizes["clean"] = report.pool.rows - sum(sizes.values())
    for rule, kept in report.kept.items():
        assert round(sum(kept[kind] * n for kind, n in sizes.items())) == report.budget, rule


def test_the_folder_holds_what_the_report_tells(report):
    assert {"clean", "pool", "truth", "scores-clean", "scores-pool", "subset"} <= set(
        os.listdir(report.folder)
    )
    assert (report.folder / "subset" / "summary.json").exists()


def test_a_folder_in_use_is_refused(report):
    with pytest.raises(OutputError, match="name a new folder"):
        run_demo(report.folder, pairs=500, seed=0, encode=demo_encode_config("cpu", 2))
