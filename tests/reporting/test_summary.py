import msgspec
import numpy as np
import pytest

from clipdre.core.scores import SCORE_COLUMNS, SCORES
from clipdre.errors import ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import ReferenceRecord
from clipdre.formats.folders.tables import SAMPLE_SCHEMA
from clipdre.reporting.summary import summarize
from tests.formats.folders.measured import write_measured
from tests.helpers import MADE_UP_REFERENCE, read_scores, write_score_folder

ROWS = 30
MAIN = ("similarity", "log_ratio", "kl_image", "klr_image", "kl_text", "klr_text")
RNG = np.random.default_rng(0)
# kl_text has the largest error for its spread.
ERRORS = {"log_ratio": 0.1, "kl_image": 0.2, "kl_text": 0.4, "klr_image": 0.3, "klr_text": 0.1}
VALUES = {name: RNG.standard_normal(ROWS).astype(np.float32) for name in MAIN} | {
    f"{name}_se": np.full(ROWS, error, np.float32) for name, error in ERRORS.items()
}


@pytest.fixture
def made_up(tmp_path):
    """Two shards with failures."""
    columns = {"key_hash": np.arange(ROWS, dtype=np.uint64), **VALUES}
    parts = [{n: v[rows] for n, v in columns.items()} for rows in (slice(10), slice(10, None))]
    manifest = write_score_folder(tmp_path, parts)
    failures = ({"broken_tar": 1, "empty_caption": 2}, {"empty_caption": 1, "missing_image": 2})
    shards = [
        msgspec.structs.replace(shard, failures=own)
        for shard, own in zip(manifest.shards, failures, strict=True)
    ]
    return ScoreFolder(tmp_path), msgspec.structs.replace(manifest, shards=tuple(shards))


def test_numbers_match_the_table(made_up):
    found = summarize(*made_up)
    assert list(found.quantiles) == list(MAIN)
    for name, values in found.quantiles.items():
        expected = np.quantile(VALUES[name].astype(float), [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert found.mean_log_ratio == pytest.approx(VALUES["log_ratio"].astype(float).mean())


def test_failures_are_counted_over_all_shards_most_frequent_first(made_up):
    found = summarize(*made_up).failures
    assert found == {"empty_caption": 3, "missing_image": 2, "broken_tar": 1}
    assert list(found) == ["empty_caption", "missing_image", "broken_tar"]


def test_the_least_reliable_column_is_named(made_up):
    name, reliability = summarize(*made_up).least_reliable
    expected = {n: 1 - e**2 / VALUES[n].astype(float).var() for n, e in ERRORS.items()}
    assert min(expected, key=expected.get) == name == "kl_text"
    assert reliability == pytest.approx(expected["kl_text"], rel=1e-5)


@pytest.mark.parametrize(("method", "exact"), [("exact", True), ("stratified", False)])
def test_only_exact_references_leave_no_error(made_up, method, exact):
    folder, manifest = made_up
    reference = msgspec.structs.replace(MADE_UP_REFERENCE, method=method)
    found = summarize(folder, msgspec.structs.replace(manifest, reference=reference))
    assert isinstance(found.reference, ReferenceRecord)
    assert found.reference.method == method
    assert found.is_exact is exact


def test_a_scored_pool_is_summarised(scored):
    path, manifest = scored
    found = summarize(ScoreFolder(path), manifest)
    table = read_scores(path, manifest)
    assert found.manifest == manifest
    assert found.failures == {}
    assert found.is_exact
    assert found.least_reliable[1] == 1
    mean = table["log_ratio"].to_numpy().astype(float).mean()
    assert found.mean_log_ratio == pytest.approx(mean, rel=1e-6)
    median = np.median(table["kl_text"].to_numpy().astype(float))
    assert found.quantiles["kl_text"][2] == pytest.approx(median, rel=1e-5)
    names = [*SAMPLE_SCHEMA.names, *SCORE_COLUMNS, "duplicate_group", "duplicate_rank"]
    assert [column.name for column in found.columns] == names
    assert found.columns[-3] == [score for score in SCORES if not score.needs_tau][-1].column


def test_measured_columns_are_described(made_up):
    folder, manifest = made_up
    write_measured(folder.path, manifest, "one", {"m": np.zeros(ROWS, np.float32)})
    column = summarize(folder, manifest).columns[-1]
    assert (column.name, column.unit, column.meaning) == ("m", "cosine", "meaning of m")


def test_a_folder_without_a_reference_is_refused(made_up):
    folder, manifest = made_up
    with pytest.raises(ScoresError, match="records no reference: score again"):
        summarize(folder, msgspec.structs.replace(manifest, reference=None))
