import numpy as np
import pytest

from clipdre.core.modality import Modalities, Modality
from clipdre.errors import UsageError
from clipdre.scorers.clusters import Clusters
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def clustered_vectors(scores, modality):
    vectors = [stored_vectors(scores, m) for m in modality.each]
    return np.concatenate(vectors, axis=1) / np.sqrt(len(vectors))


@pytest.mark.parametrize("modality", list(Modalities))
def test_no_cluster_mixes_blobs_and_each_row_belongs_to_the_nearest(scores, modality):
    rng = np.random.default_rng(1)
    labels = rng.integers(6, size=300)
    noise = 0.02 * rng.normal(size=(2, 300, 16))
    images, texts = (unit_rows(rng, 6, 16)[labels] + noise[n] for n in range(2))
    store_vectors(scores, images, texts)
    found, record = measured(scores, Clusters(clusters=12, modality=modality))
    numbers, distances = found[f"cluster_{modality}"], found[f"cluster_distance_{modality}"]
    vectors = clustered_vectors(scores, modality)
    assert len(set(numbers)) == 12 == record.figures["clusters"]
    assert len(set(zip(labels, numbers, strict=True))) == 12
    # All rows are in the sample, so each centroid is the direction of its members' sum.
    sums = np.array([vectors[numbers == n].sum(axis=0) for n in range(12)])
    cosines = vectors @ (sums / np.linalg.norm(sums, axis=1, keepdims=True)).T
    assert numbers.tolist() == cosines.argmax(axis=1).tolist()
    np.testing.assert_allclose(distances, 1 - cosines.max(axis=1), atol=1e-5)


def test_several_sets_of_clusters_lie_side_by_side(scores):
    measured(scores, Clusters())
    found, record = measured(scores, Clusters(modality=Modalities.TEXT), suffix="b")
    assert list(found) == ["cluster_text_b", "cluster_distance_text_b"]
    assert record.figures["clusters"] == 17  # the square root of 300


def test_another_seed_gives_other_clusters(scores):
    first, second = (measured(scores, Clusters(seed=seed))[0]["cluster_image"] for seed in (1, 2))
    assert (first != second).any()


@pytest.mark.parametrize("count", [-1, 301])
def test_a_number_of_clusters_that_the_pool_cannot_have_is_refused(scores, count):
    with pytest.raises(UsageError, match=f"`clusters` {count} is not between 1 and .* 300"):
        measured(scores, Clusters(clusters=count))


def test_every_row_a_cluster(scores):
    rng = np.random.default_rng(4)
    store_vectors(scores, unit_rows(rng, 300, 16), unit_rows(rng, 300, 16))
    found, _ = measured(scores, Clusters(clusters=300))
    assert sorted(found["cluster_image"]) == list(range(300))
    assert stored_vectors(scores, Modality.IMAGE).shape == (300, 16)
