import numpy as np
import pytest

from clipdre.config import EncodeConfig
from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.models.load import load_encoder
from clipdre.scorers import clipcov, common
from clipdre.scorers.clipcov import ClipCov
from clipdre.scorers.clusters import Clusters
from tests.core.oracle import unit_rows
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def naive(images, texts, classes, steps):
    """Pair by pair, with all sums taken anew at each step."""
    found = np.full(len(images), np.nan)
    for number in set(classes):
        members = list(np.flatnonzero(classes == number))
        open_ones, smallest = list(members), np.inf
        for size in [len(part) for part in np.array_split(members, min(steps, len(members)))]:
            gains = []
            for n in open_ones:
                of_class = sum(images[n] @ texts[j] + texts[n] @ images[j] for j in open_ones)
                of_pool = images[n] @ texts.mean(axis=0) + texts[n] @ images.mean(axis=0)
                gains.append(of_class / len(members) - of_pool)
            order = np.argsort(-np.array(gains))[:size]
            for place in order:
                smallest = found[open_ones[place]] = min(gains[place], smallest)
            open_ones = [n for place, n in enumerate(open_ones) if place not in set(order)]
    return found


@pytest.fixture
def vectors(scores):
    rng = np.random.default_rng(8)
    centre = unit_rows(rng, 8, 32)[rng.integers(8, size=300)]
    store_vectors(scores, *(centre + 0.2 * rng.normal(size=(300, 32)) for _ in range(2)))
    return [stored_vectors(scores, modality) for modality in Modality]


@pytest.mark.parametrize("block", [13, 65_536])
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_it_is_the_gain_of_the_greedy_choice(scores, vectors, monkeypatch, steps, block):
    monkeypatch.setattr(clipcov, "BLOCK", block)
    monkeypatch.setattr(common, "KEPT", block)
    found, _ = measured(scores, ClipCov(clusters=9, steps=steps))
    clusters, _ = measured(scores, Clusters(clusters=9))
    assert found["clipcov_class"].tolist() == clusters["cluster_image"].tolist()
    expected = naive(*vectors, found["clipcov_class"], steps)
    np.testing.assert_allclose(found["clipcov"], expected, atol=1e-5)


def test_what_is_common_to_all_classes_counts_for_nothing(scores):
    store_vectors(scores, np.ones((300, 8)), np.ones((300, 8)))
    found, _ = measured(scores, ClipCov(clusters=1, steps=1))
    np.testing.assert_allclose(found["clipcov"], 0, atol=1e-5)


def test_classes_of_prompts_are_those_of_the_nearest(scores):
    prompts = ("a red circle", "a blue square", "a green star")
    encoder = load_encoder(EncodeConfig(model="clipdre-tiny", device="cpu"))
    centres = encoder.encode_texts([encoder.tokenize(p) for p in prompts]).double().numpy()
    expected = (stored_vectors(scores, Modality.IMAGE) @ centres.T).argmax(axis=1)
    found, _ = measured(scores, ClipCov(prompt=prompts))
    assert found["clipcov_class"].tolist() == expected.tolist()
    np.save(scores / "classes.npy", centres.astype(np.float32))
    again, _ = measured(scores, ClipCov(classes=str(scores / "classes.npy")))
    assert again["clipcov_class"].tolist() == expected.tolist()
    np.testing.assert_allclose(again["clipcov"], found["clipcov"], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ("a",), "clusters": 3}, "`prompt` and `clusters` each define the classes"),
        ({"prompt": ("a",), "classes": "x.npy"}, "`prompt` and `classes` each define"),
        ({"steps": 0}, "`steps` 0 is too small"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(scores, settings, message):
    with pytest.raises(UsageError, match=message):
        measured(scores, ClipCov(**settings))
