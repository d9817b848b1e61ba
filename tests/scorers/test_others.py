"""Scorers against packages that implement the same thing."""

import faiss
import numpy as np
import pytest
import torch
from data_selection.hashed_ngram_dsir import get_ngram_counts
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from clipdre.clusters.spherical import spherical_kmeans
from clipdre.core.modality import Modality
from clipdre.scorers.image_duplicates import ImageDuplicates
from clipdre.scorers.importance_resampling import SMALL, ImportanceResampling
from clipdre.scorers.whitened import Whitened
from tests.core.oracle import unit_rows
from tests.scorers.captions import recaptioned
from tests.scorers.measuring import measured, store_vectors, stored_vectors

CAPTIONS = (
    "A red hat, on sale!",
    "the cat's 3 hats",
    "blue",
    "",
    "naïve café — 2.5 km",
    "a b a b a",
)


def test_whitening_is_that_of_scikit_learn(scores):
    rng = np.random.default_rng(2)
    images = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    store_vectors(scores, images, images)
    found, _ = measured(scores, Whitened())
    vectors = stored_vectors(scores, Modality.IMAGE)
    # scikit-learn divides the covariance by n - 1.
    white = PCA(whiten=True).fit_transform(vectors) * np.sqrt(300 / 299)
    expected = -(12 * np.log(2 * np.pi) + (white**2).sum(axis=1)) / 2
    np.testing.assert_allclose(found["likelihood_image"], expected, rtol=1e-4)


def test_clusters_are_as_tight_as_those_of_scikit_learn():
    """On unit vectors the two differ little: centroids are scaled to the sphere."""
    rng = np.random.default_rng(3)
    centres = unit_rows(rng, 12, 16)
    vectors = centres[rng.integers(12, size=3000)] + 0.15 * rng.normal(size=(3000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    theirs = KMeans(12, n_init=10, random_state=0).fit(vectors).cluster_centers_
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = max(
        (vectors @ spherical_kmeans(torch.from_numpy(vectors), 12, seed).numpy().T).max(1).mean()
        for seed in range(10)
    )
    assert ours == pytest.approx((vectors @ theirs.T).max(axis=1).mean(), abs=2e-3)


def test_groups_of_images_are_those_of_a_range_search(scores):
    rng = np.random.default_rng(4)
    some = unit_rows(rng, 120, 16)
    images = some[rng.integers(120, size=300)] + 0.03 * rng.normal(size=(300, 16))
    store_vectors(scores, images, images)
    found, _ = measured(scores, ImageDuplicates(threshold=0.97))
    vectors = stored_vectors(scores, Modality.IMAGE).astype(np.float32)
    index = faiss.IndexFlatIP(16)
    index.add(vectors)
    limits, _, near = index.range_search(vectors, 0.97)
    graph = np.zeros((300, 300), bool)
    graph[np.repeat(np.arange(300), np.diff(limits.astype(np.int64))), near] = True
    count, expected = connected_components(graph)
    _, ours = np.unique(found["image_group"], return_inverse=True)
    assert 60 < count < 200
    assert len(set(zip(ours.tolist(), expected.tolist(), strict=True))) == count == ours.max() + 1


def test_n_grams_and_weights_are_those_of_dsir(scores, tmp_path):
    target = tmp_path / "target.txt"
    wanted = ["a red hat", "the red cat and the hat", "2.5 km of blue"]
    target.write_text("\n".join(wanted))
    captions = recaptioned(scores, CAPTIONS)
    found, _ = measured(scores, ImportanceResampling(target=str(target)))

    def log_shares(texts):
        counts = np.zeros(10_000, int)
        for text in texts:
            get_ngram_counts(text, counts=counts)
        return np.log(counts / counts.sum() + SMALL)

    ratio = log_shares(wanted) - log_shares(captions)
    expected = [get_ngram_counts(caption) @ ratio for caption in captions]
    np.testing.assert_allclose(found["dsir_log_weight"], expected, rtol=1e-5, atol=1e-5)
