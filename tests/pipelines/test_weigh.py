import dataclasses
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.errors import ModelError, ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.pipelines.weigh import weigh
from tests.helpers import read_scores


def test_a_prompt_favours_what_it_says_and_joins_to_the_scores(scored, tmp_path):
    folder, manifest = scored
    path = tmp_path / "w.parquet"
    found = weigh(ScoreFolder(folder), manifest, path, ["red circle"], device="cpu")
    table, scores = pq.read_table(path), read_scores(folder, manifest)
    assert table["key"].equals(scores["key"])
    assert table["shard"].equals(scores["shard"])
    weights = table["weight"].to_numpy()
    assert weights.mean() == pytest.approx(1)
    says = np.array(["red" in c and "circle" in c for c in scores["caption"].to_pylist()])
    assert weights[says].mean() > 3 * weights[~says].mean()
    assert found.sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert [w for w, _, _ in found.top] == sorted(weights, reverse=True)[:5]


def test_negative_prompts_divide(scored, tmp_path):
    folder, manifest = scored
    names = ["red circle"], ["blue square"]
    weights = []
    for n, (prompts, avoided) in enumerate(((names[0], ()), (names[1], ()), names)):
        path = tmp_path / f"{n}.parquet"
        weigh(ScoreFolder(folder), manifest, path, prompts, avoided, device="cpu")
        weights.append(pq.read_table(path)["weight"].to_numpy())
    ratio = weights[0] / weights[1]
    np.testing.assert_allclose(weights[2], ratio / ratio.mean(), rtol=1e-6)


def test_without_embeddings_or_their_model_it_says_so(scored, tmp_path):
    folder, manifest = scored
    shutil.copytree(folder, tmp_path / "s")
    other = dataclasses.replace(manifest.model, digest="0" * 64)
    changed = dataclasses.replace(manifest, model=other)
    with pytest.raises(ModelError, match="are not those that made the scores"):
        weigh(ScoreFolder(tmp_path / "s"), changed, tmp_path / "w", ["x"], device="cpu")
    shutil.rmtree(tmp_path / "s" / "embeddings")
    with pytest.raises(ScoresError, match="score again without --discard-embeddings"):
        weigh(ScoreFolder(tmp_path / "s"), manifest, tmp_path / "w", ["x"], device="cpu")
    assert not (tmp_path / "w").exists()
