import numpy as np
import pyarrow.parquet as pq
import pytest

from clipdre.core.modality import Modalities
from clipdre.scorers import semantic_duplicates
from clipdre.scorers.clusters import Clusters
from clipdre.scorers.semantic_duplicates import SemanticDuplicates
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors
from tests.scorers.test_clusters import clustered_vectors


def key_hashes(scores):
    files = sorted((scores / "scores").glob("*.parquet"))
    return np.concatenate([pq.read_table(file)["key_hash"].to_numpy() for file in files])


def naive(vectors, hashes, numbers, distances):
    """Pair by pair: an earlier one is farther from the centroid, or of smaller hash if as far."""
    found = np.full(len(vectors), -1.0)
    for j in range(len(vectors)):
        for i in range(len(vectors)):
            if numbers[i] == numbers[j]:
                as_far = abs(distances[i] - distances[j]) < 1e-7
                first = hashes[i] < hashes[j] if as_far else distances[i] > distances[j]
                if first:
                    found[j] = max(found[j], vectors[i] @ vectors[j])
    return found


@pytest.mark.parametrize("modality", list(Modalities))
@pytest.mark.parametrize("block", [16, 2048])
def test_it_is_the_largest_cosine_with_an_earlier_member(scores, monkeypatch, modality, block):
    monkeypatch.setattr(semantic_duplicates, "BLOCK", block)
    rng = np.random.default_rng(2)
    images, texts = (unit_rows(rng, 6, 16)[np.arange(300) % 6] for _ in range(2))
    store_vectors(scores, images + 0.1 * rng.normal(size=(300, 16)), texts + rng.normal(size=16))
    found, _ = measured(scores, SemanticDuplicates(clusters=4, modality=modality))
    of, _ = measured(scores, Clusters(clusters=4, modality=modality))
    expected = naive(
        clustered_vectors(scores, modality),
        key_hashes(scores),
        of[f"cluster_{modality}"],
        of[f"cluster_distance_{modality}"],
    )
    np.testing.assert_allclose(found["duplicate_similarity"], expected, atol=1e-6)
    assert (found["duplicate_similarity"] == -1).sum() == 4


def test_one_of_each_group_of_copies_is_no_duplicate(scores):
    rng = np.random.default_rng(3)
    origin = rng.integers(60, size=300)
    store_vectors(scores, unit_rows(rng, 60, 64)[origin], unit_rows(rng, 300, 64))
    found, _ = measured(scores, SemanticDuplicates(clusters=5))
    kept = found["duplicate_similarity"] <= 0.999
    assert sorted(origin[kept]) == sorted(set(origin))
    # Of copies, the one of smallest key hash: the same whatever the order of shards.
    hashes = key_hashes(scores)
    for number in set(origin):
        copies = np.flatnonzero(origin == number)
        assert kept[copies[np.argmin(hashes[copies])]]


def test_what_is_dropped_still_suppresses_others(scores):
    """A chain: each is alike to the one before it, and only the two ends are kept."""
    angles = np.linspace(0.9, 0.1, 300)
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    store_vectors(scores, np.concatenate([chain, np.zeros((300, 6))], axis=1), np.ones((300, 8)))
    found, _ = measured(scores, SemanticDuplicates(clusters=1))
    assert (found["duplicate_similarity"] > 0.99).sum() == 298
