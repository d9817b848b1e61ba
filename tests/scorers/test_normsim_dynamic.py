import numpy as np
import pytest

import clipdre
from clipdre.core.modality import Modality
from clipdre.errors import UsageError
from clipdre.scorers.normsim_dynamic import DynamicNormSim
from tests.scorers.measuring import measured, store_vectors, stored_vectors


def naive(vectors, left, sizes):
    """Row by row and round by round; returns the rows in the order in which they are dropped."""
    left, dropped = list(left), []
    for size in sizes:
        moment = sum(np.outer(vectors[n], vectors[n]) for n in left) / len(left)
        order = sorted(left, key=lambda n: vectors[n] @ moment @ vectors[n])
        dropped += order[: len(left) - size]
        left = order[len(left) - size :]
    return dropped


@pytest.mark.parametrize("modality", list(Modality))
def test_the_order_is_that_of_the_definition(scores, modality):
    rng = np.random.default_rng(4)
    store_vectors(scores, rng.normal(size=(300, 16)) + 0.3, rng.normal(size=(300, 16)))
    found, _ = measured(scores, DynamicNormSim(keep=0.2, rounds=4, modality=modality))
    vectors = stored_vectors(scores, modality)
    expected = naive(vectors, range(300), [240, 180, 120, 60, 0])
    order = np.argsort(found["normsim_dynamic_rank"])[::-1]
    assert order.tolist() == expected


def test_a_start_puts_the_others_last(scores):
    rng = np.random.default_rng(5)
    store_vectors(scores, rng.normal(size=(300, 16)) + 0.3, rng.normal(size=(300, 16)))
    found, _ = measured(scores, DynamicNormSim(keep=0.1, rounds=3, start=0.5, by="similarity"))
    similarity = clipdre.open_scores(scores).to_arrow(["similarity"])["similarity"].to_numpy()
    first = np.argsort(-similarity, kind="stable")[:150]
    ranks = found["normsim_dynamic_rank"]
    assert sorted(ranks) == list(range(1, 301))
    assert set(np.flatnonzero(ranks <= 150)) == set(first)
    others = np.flatnonzero(ranks > 150)
    assert (np.diff(similarity[others][np.argsort(ranks[others])]) <= 0).all()
    expected = naive(stored_vectors(scores, Modality.IMAGE), first, [110, 70, 30, 0])
    assert np.argsort(ranks)[:150][::-1].tolist() == expected


def test_more_rounds_than_pairs_drop_one_at_a_time(scores):
    rng = np.random.default_rng(7)
    store_vectors(scores, rng.normal(size=(300, 8)), rng.normal(size=(300, 8)))
    found, _ = measured(scores, DynamicNormSim(keep=0.01, start=0.02, rounds=10**9))
    assert sorted(found["normsim_dynamic_rank"]) == list(range(1, 301))


def test_it_prefers_what_is_common(scores):
    """Three in four images are of one kind: these stay."""
    rng = np.random.default_rng(6)
    common = rng.random(300) < 0.75
    images = np.where(common[:, None], np.eye(16)[0], rng.normal(size=(300, 16)))
    store_vectors(scores, images + 0.05 * rng.normal(size=(300, 16)), images)
    found, _ = measured(scores, DynamicNormSim(keep=0.3))
    kept = found["normsim_dynamic_rank"] <= 90
    assert common[kept].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.0}, "`keep` is 0.0"),
        ({"keep": 0.5, "start": 0.3}, "`start` the larger"),
        ({"rounds": 0}, "`rounds` 0 is too small"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        DynamicNormSim(**settings)


def test_a_column_to_begin_with_that_is_missing_is_named(scores):
    with pytest.raises(UsageError, match="there is no column nope"):
        measured(scores, DynamicNormSim(start=0.5, by="nope"))
