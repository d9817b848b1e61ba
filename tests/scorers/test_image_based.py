import numpy as np
import pytest

from clipdre.core.modality import Modalities
from clipdre.errors import UsageError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.scorers.clusters import Clusters
from clipdre.scorers.image_based import ImageBased
from clipdre.selecting.rules import Rule, Step
from clipdre.selecting.select import select
from clipdre.sql.query import ScoreQuery
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors
from tests.scorers.test_clusters import clustered_vectors


@pytest.mark.parametrize("modality", [Modalities.IMAGE, Modalities.TEXT])
def test_clusters_are_those_that_a_vector_of_the_target_is_nearest_to(scores, tmp_path, modality):
    rng = np.random.default_rng(6)
    store_vectors(scores, unit_rows(rng, 300, 128), unit_rows(rng, 300, 128))
    target = unit_rows(rng, 5, 128).astype(np.float32)
    np.save(tmp_path / "target.npy", target)
    scorer = ImageBased(target=str(tmp_path / "target.npy"), clusters=12, modality=modality)
    found, record = measured(scores, scorer)
    numbers = measured(scores, Clusters(clusters=12, modality=modality))[0][f"cluster_{modality}"]
    vectors = clustered_vectors(scores, modality)
    sums = np.array([vectors[numbers == n].sum(axis=0) for n in range(12)])
    centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    hit = set((target @ centroids.T).argmax(axis=1))
    assert found["cluster_in_target"].tolist() == [number in hit for number in numbers]
    assert record.figures == {"clusters": 12, "clusters_in_target": len(hit)}
    assert 0 < found["cluster_in_target"].sum() < 300


def test_the_column_is_a_condition(scores):
    found, _ = measured(scores, ImageBased(target=str(scores), clusters=300))
    assert found["cluster_in_target"].all()
    query = ScoreQuery(ScoreFolder(scores), read_complete_manifest(scores))
    shards, _ = select(query, Rule((Step(where="cluster_in_target"),))).places
    assert len(shards) == 300


def test_a_target_has_one_modality(scores):
    with pytest.raises(UsageError, match="`modality` both has no target: use image or text"):
        measured(scores, ImageBased(target=str(scores), modality=Modalities.BOTH))
