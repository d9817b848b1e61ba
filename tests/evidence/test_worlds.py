import itertools

import numpy as np
import pytest

from clipdre.truth.world import sample_pairs, true_log_ratio
from evidence.worlds import LARGE, SMALL

JOINING = ("left", "right", "on", "framed", "in")


def test_the_large_world_has_more_than_a_million_scenes():
    assert SMALL.scenes == 1536
    assert LARGE.scenes == len(list(itertools.product(*(a.values for a in LARGE.attributes))))
    assert LARGE.scenes > 10**6


def test_the_small_world_is_that_of_clipdre():
    pairs = sample_pairs(500, np.random.default_rng(0))
    assert SMALL.log_ratio(pairs) == pytest.approx(true_log_ratio(pairs))
    assert SMALL.prompts()["position"][1] == "thing in the top right"


@pytest.mark.parametrize("world", [SMALL, LARGE])
def test_ratios_are_those_of_counting(world):
    """The caption's scenes are drawn as often as its ratio says: p(i|t) / p(i) = 1 / p(S)."""
    drawn = world.draw(200_000, np.random.default_rng(1))
    few = [row for row in range(400) if 0 < drawn.mentioned[row].sum() <= 2]
    ratios = world.log_ratio(drawn)
    for row in few[:30]:
        mentioned = drawn.mentioned[row]
        share = (drawn.values[:, mentioned] == drawn.values[row, mentioned]).all(axis=1).mean()
        error = 4 / np.sqrt(share * len(drawn))
        assert ratios[row] == pytest.approx(-np.log(share), abs=error)


def test_captions_of_two_objects_name_exactly_the_mentioned_values():
    pairs = LARGE.draw(500, np.random.default_rng(2))
    for values, mentioned, caption in zip(
        pairs.values, pairs.mentioned, pairs.captions, strict=True
    ):
        parts = {part.split()[0]: part.split()[1:] for part in caption.split(", ")}
        expected = [
            attribute.values[value]
            for attribute, value, is_mentioned in zip(
                LARGE.attributes, values, mentioned, strict=True
            )
            if is_mentioned
        ]
        if caption.endswith("things"):
            assert not expected
            continue
        bare = caption.removeprefix("a picture of ").removeprefix("an image showing ")
        said = [
            w
            for w in bare.replace(",", "").split()
            if w not in ("left", "right", "on", "framed", "in")
        ]
        assert sorted(said) == sorted(expected)
        assert len(parts) == len(caption.split(", "))


def test_every_value_can_be_seen():
    """Changing one value changes the image, with all else equal."""
    base = np.zeros(len(LARGE.attributes), np.int64)
    plain = np.asarray(LARGE.render(base, np.random.default_rng(0)))
    for k, attribute in enumerate(LARGE.attributes):
        for value in range(1, len(attribute.values)):
            scene = base.copy()
            scene[k] = value
            other = np.asarray(LARGE.render(scene, np.random.default_rng(0)))
            assert (other != plain).any(axis=2).mean() > 0.005, (attribute.name, value)
