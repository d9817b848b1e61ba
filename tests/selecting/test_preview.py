import numpy as np
import pytest

from clipdre.formats.folders.folder import ScoreFolder
from clipdre.selecting.preview import compare, preview
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import read_scores, write_score_folder


@pytest.fixture
def query(scored):
    return ScoreQuery(ScoreFolder(scored[0]), scored[1])


def selection_of(query, name, **step):
    return select(query, Rule((Step(**step),), name=name))


def test_preview_counts_rows_and_averages_scores(query, scored):
    table = read_scores(*scored)
    selection = selection_of(query, "a", by="kl_text", top=Amount(60))
    found = preview(selection)
    shard, row = selection.places
    kept = shard * 100 + row
    assert (found.pool, found.kept) == (300, 60)
    assert [(n, rows) for n, rows, _ in found.shards] == [
        ("00000", 100),
        ("00001", 100),
        ("00002", 100),
    ]
    assert [k for _, _, k in found.shards] == np.bincount(shard, minlength=3).tolist()
    for column in ("kl_text", "similarity", "ess_image"):
        values = table[column].to_numpy().astype(np.float64)
        np.testing.assert_allclose(
            found.means[column], (values.mean(), values[kept].mean()), rtol=1e-6
        )
    ratio = table["log_ratio"].to_numpy().astype(np.float64)
    expected = ratio.mean(), ratio[kept].mean()
    np.testing.assert_allclose(found.mean_log_ratio, expected, rtol=1e-6)
    captions = [table["caption"][int(n)].as_py() for n in kept]
    assert found.duplicates["caption"] == pytest.approx(1 - len(set(captions)) / 60)


def test_preview_of_no_rows_has_no_means(query):
    found = preview(selection_of(query, "none", where="false"))
    assert found.kept == 0
    assert found.means["kl_text"][1] is None
    assert found.duplicates == {"caption": 0.0, "uid": 0.0}


def test_comparison_matches_python_sets(query, scored):
    captions = read_scores(*scored)["caption"].to_pylist()
    selections = [
        selection_of(query, "ratio", by="log_ratio", top=Amount(90)),
        selection_of(query, "kl", by="kl_text", top=Amount(60)),
        selection_of(query, "uniform", by="kl_text", top=Amount(50), uniform=True),
    ]
    sets = {}
    for selection in selections:
        shard, row = selection.places
        sets[selection.rule.name] = set((shard * 100 + row).tolist())
    found = compare(selections)
    assert found.names == list(sets)
    for (a, b), share in found.jaccard.items():
        assert share == pytest.approx(len(sets[a] & sets[b]) / len(sets[a] | sets[b]))
    assert len(found.jaccard) == 3
    for name, (count, examples) in found.only.items():
        others = set().union(*(kept for other, kept in sets.items() if other != name))
        assert count == len(sets[name] - others)
        assert set(examples) <= {captions[n] for n in sets[name] - others}
        assert len(examples) == min(3, count)


def test_means_leave_out_nan(tmp_path):
    columns = {"key": ["a", "b"], "uid": ["1", "1"], "caption": ["c", "d"], "key_hash": [1, 2]}
    scores = {"log_ratio": np.array([np.nan, 2.0])}
    manifest = write_score_folder(tmp_path, [{**columns, **scores}])
    found = preview(selection_of(ScoreQuery(ScoreFolder(tmp_path), manifest), "all"))
    assert found.means == {"log_ratio": (2.0, 2.0)}
    assert found.duplicates == {"caption": 0.0, "uid": 0.5}
