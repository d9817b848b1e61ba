import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipdre.core.modality import Modality
from clipdre.errors import SelectionError, UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.looking.comparison import compare
from clipdre.selecting.rules import Amount, Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.helpers import read_scores, write_score_folder

STEPS = {
    "ratio": Step(by="log_ratio", top=Amount(90)),
    "kl": Step(where="shard <> '00001'", by="rank(kl_text)", top=Amount(60)),
}


def selections(folder, manifest, joined=()):
    query = ScoreQuery(ScoreFolder(folder), manifest, joined)
    return {name: select(query, Rule((step,))) for name, step in STEPS.items()}


def places_of(selection):
    shard, row = selection.places
    return shard * 100 + row


def vectors_of(folder, name):
    files = sorted((folder / "embeddings").rglob(f"{name}_emb_*.npy"))
    vectors = np.concatenate([np.load(file).astype(np.float64) for file in files])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_means_are_those_of_the_kept(scored):
    table, kept = read_scores(*scored), selections(*scored)
    found = compare(kept)
    assert found.pool.rows == 300
    for column in ("log_ratio", "kl_text", "ess_image"):
        assert column in found.columns
        values = table[column].to_numpy().astype(np.float64)
        assert found.pool.means[column] == pytest.approx(values.mean())
        for name, selection in kept.items():
            assert found.kept[name].rows == len(selection)
            own = values[places_of(selection)].mean()
            assert found.kept[name].means[column] == pytest.approx(own)


def test_correlations_are_spearmans(scored):
    found = compare(selections(*scored))
    table = read_scores(*scored)
    a, b = (table[name].to_numpy().argsort().argsort() for name in ("kl_text", "similarity"))
    at = [found.columns.index(name) for name in ("kl_text", "similarity")]
    assert found.sampled == 300
    assert found.correlations[tuple(at)] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-4)


def test_diversity_is_that_of_the_kept_vectors(scored):
    kept = {**selections(*scored), "other": selections(*scored)["kl"]}
    found = compare(kept)
    assert (found.diverse, found.problem) == (60, "")
    for modality, name in ((Modality.IMAGE, "img"), (Modality.TEXT, "text")):
        vectors = vectors_of(scored[0], name)[places_of(kept["kl"])]
        shares = np.linalg.eigvalsh(np.cov(vectors.T)).clip(1e-300)
        shares /= shares.sum()
        rank, ratio = found.kept["kl"].diversity[modality]
        assert rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
        assert ratio == pytest.approx(1 / (shares**2).sum(), rel=1e-4)
        assert found.kept["other"].diversity == found.kept["kl"].diversity
        assert found.kept["ratio"].diversity[modality].effective_rank > 1


def test_a_sample_is_the_same_each_time_and_not_of_the_best(scored):
    kept = {"all": select(ScoreQuery(ScoreFolder(scored[0]), scored[1]), Rule())}
    kept["again"] = select(kept["all"].query, Rule((Step(where="true"),)))
    found = compare(kept, sampled=200)
    assert (found.sampled, found.diverse) == (200, 200)
    assert found.kept["all"].diversity == found.pool.diversity == found.kept["again"].diversity
    assert found.pool.diversity != compare(kept).pool.diversity
    with pytest.raises(UsageError, match="`sampled` is 1: use at least 2"):
        compare(kept, sampled=1)


def test_precision_and_recall_of_a_joined_truth(scored, tmp_path):
    table = read_scores(*scored)
    kind = np.array(["good", "bad", None], object)[np.arange(300) % 3]
    named = {"shard": table["shard"], "key": table["key"], "kind": pa.array(kind)}
    pq.write_table(pa.table(named), tmp_path / "truth.parquet")
    kept = selections(*scored, [tmp_path / "truth.parquet"])
    found = compare(kept, truth="kind = 'good'")
    assert (found.pool.precision, found.pool.recall) == (0.5, 1)
    for name, selection in kept.items():
        kinds = kind[places_of(selection)].tolist()
        good, bad = kinds.count("good"), kinds.count("bad")
        assert found.kept[name].precision == good / (good + bad)
        assert found.kept[name].recall == good / 100
    nothing = compare(kept, truth="kind = 'other'")
    assert (nothing.kept["kl"].precision, nothing.kept["kl"].recall) == (0, None)
    assert compare(kept, truth="draw(0.5)").pool.recall == 1
    assert compare(kept).pool.precision is None
    for truth, message in (("kind", "has type VARCHAR"), ("knd = 1", "no column knd"), ("", "''")):
        with pytest.raises(SelectionError, match=message):
            compare(kept, truth=truth)


def test_scores_without_embeddings_have_no_diversity(scored, tmp_path):
    shutil.copytree(scored[0], tmp_path / "scores")
    shutil.rmtree(tmp_path / "scores" / "embeddings")
    found = compare(selections(tmp_path / "scores", scored[1]))
    assert found.problem.endswith("keeps no embeddings: score again without `discard_embeddings`")
    assert (found.pool.diversity, found.diverse) == ({}, 0)
    assert found.pool.means["log_ratio"] is not None


def test_sets_of_no_pairs(tmp_path):
    columns = {"key": ["a"], "caption": ["b"], "key_hash": np.array([1], np.uint64)}
    columns["log_ratio"] = [np.nan]
    query = ScoreQuery(ScoreFolder(tmp_path), write_score_folder(tmp_path, [columns]))
    kept = {name: select(query, Rule((Step(where=name),))) for name in ("false", "1 = 2")}
    found = compare(kept, truth="log_ratio > 0")
    assert (found.kept["false"].rows, found.kept["false"].precision) == (0, None)
    assert found.pool.means == {"log_ratio": None, "caption length": 1}
