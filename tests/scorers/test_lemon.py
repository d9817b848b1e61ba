import numpy as np
import pytest

from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers import common, lemon
from clipdre.scorers.lemon import Lemon
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def naive(images, texts, scorer):
    """Row by row, as the paper writes it, over the whole pool."""

    def part(own, other):
        found = []
        for n in range(len(own)):
            distances = 1 - own @ own[n]
            distances[n] = np.inf
            near = np.argsort(distances)[: min(scorer.neighbors, len(own) - 1)]
            terms = (
                (1 - other[near] @ other[n])
                * np.exp(-scorer.tau_1 * distances[near])
                * np.exp(-scorer.tau_2 * (1 - (own[near] * other[near]).sum(axis=1)))
            )
            found.append(np.mean(terms))
        return np.array(found)

    image, text = part(images, texts), part(texts, images)
    pair = 1 - (images * texts).sum(axis=1)
    return pair + scorer.beta * image + scorer.gamma * text, image, text


def check(scores, scorer):
    found, _ = measured(scores, scorer)
    expected = naive(*(stored_vectors(scores, m) for m in Modality), scorer)
    for name, values in zip(("lemon", "lemon_image", "lemon_text"), expected, strict=True):
        np.testing.assert_allclose(found[name], values, atol=3e-6)


@pytest.mark.parametrize(
    "scorer",
    [
        Lemon(),
        Lemon(neighbors=1, beta=2.0, gamma=0.5, tau_1=3.0, tau_2=1.0),
        Lemon(clusters=5, probes=5),
        Lemon(neighbors=500),  # more than there are: all others
    ],
)
def test_it_is_the_definition(scores, monkeypatch, scorer):
    monkeypatch.setattr(lemon, "KEYS", 77)
    monkeypatch.setattr(lemon, "QUERIES", 33)
    monkeypatch.setattr(common, "KEPT", 250)
    rng = np.random.default_rng(3)
    centre = unit_rows(rng, 10, 32)[rng.integers(10, size=300)]
    store_vectors(scores, *(centre + 0.2 * rng.normal(size=(300, 32)) for _ in range(2)))
    check(scores, scorer)


def test_clusters_are_widened_until_they_hold_the_neighbours(scores):
    """With 60 clusters of about five rows, one probe alone has too few."""
    rng = np.random.default_rng(4)
    centre = np.repeat(np.eye(60), 5, axis=0)
    store_vectors(scores, *(centre + 0.001 * rng.normal(size=(300, 60)) for _ in range(2)))
    check(scores, Lemon(neighbors=4, clusters=60, probes=1))
    found, _ = measured(scores, Lemon(neighbors=20, clusters=60, probes=1))
    assert np.isfinite(found["lemon"]).all()


def test_exchanged_captions_are_found(scores):
    """Captions of ten kinds of images; ten rows have one of another kind."""
    rng = np.random.default_rng(5)
    kinds = rng.integers(10, size=300)
    wrong = rng.choice(300, 10, replace=False)
    described = kinds.copy()
    described[wrong] = (kinds[wrong] + 1 + rng.integers(9, size=10)) % 10
    noise = 0.1 * rng.normal(size=(2, 300, 16))
    images, texts = unit_rows(rng, 10, 16), unit_rows(rng, 10, 16)
    store_vectors(scores, images[kinds] + noise[0], texts[described] + noise[1])
    found, _ = measured(scores, Lemon(neighbors=10, tau_2=0.0))
    for name in ("lemon", "lemon_image", "lemon_text"):
        assert set(np.argsort(-found[name])[:10]) == set(wrong), name
    similarity = (stored_vectors(scores, "image") * stored_vectors(scores, "text")).sum(axis=1)
    assert set(np.argsort(similarity)[:10]) != set(wrong)


@pytest.mark.parametrize("name", ["neighbors", "probes"])
def test_counts_are_positive(scores, name):
    with pytest.raises(UsageError, match=f"`{name}` 0 is too small"):
        measured(scores, Lemon(**{name: 0}))
