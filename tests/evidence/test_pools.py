import numpy as np
import pytest

from evidence.pools import POOLS, PoolPlan, contradicting, dialect, partly_wrong
from evidence.worlds import LARGE, SMALL


@pytest.mark.parametrize("name", POOLS)
def test_shares_are_as_planned(name):
    plan = POOLS[name]
    small = PoolPlan(name, plan.world, 400, plan.noise)
    drawn = small.draw()
    for kind, share in plan.noise.items():
        assert (drawn.kinds == kind).sum() == round(share * 400)
    assert np.isnan(drawn.truths[~np.isin(drawn.kinds, ("clean", "duplicate"))]).all()
    assert np.isfinite(drawn.truths[np.isin(drawn.kinds, ("clean", "duplicate"))]).all()


def test_a_realistic_pool_is_mostly_noise():
    kinds = PoolPlan("", SMALL, 1000).draw().kinds
    assert (kinds == "clean").sum() == 450


def test_the_same_plan_draws_the_same_pool():
    one, other = (PoolPlan("", LARGE, 60).draw() for _ in range(2))
    assert one.captions == other.captions
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one.images, other.images, strict=True))


def test_wrong_captions_contradict_their_scene():
    pairs = SMALL.draw(300, np.random.default_rng(0))
    for row in range(100):
        chosen = contradicting(pairs, pairs.values[row], row)
        mentioned = pairs.mentioned[chosen]
        assert (pairs.values[chosen] != pairs.values[row])[mentioned].any()


def test_a_partly_wrong_caption_has_one_wrong_value():
    rng = np.random.default_rng(0)
    pairs = LARGE.draw(200, rng)
    for row in range(200):
        right = LARGE.describe(pairs.values[row], pairs.mentioned[row])
        wrong = partly_wrong(LARGE, pairs, row, rng)
        assert wrong != right
        if pairs.mentioned[row].any():
            changed = [a != b for a, b in zip(right.split(), wrong.split(), strict=True)]
            assert sum(changed) == 1


def test_dialects_share_no_word_with_ours():
    ours = "left large red circle high, on grey"
    words = {word.strip(",") for word in ours.split()}
    for name in ("backwards", "doubled", "spelled"):
        theirs = {word.strip(",") for word in dialect(ours, name).split()}
        assert not words & theirs
        assert len(theirs) == len(words)


def test_copies_are_of_few_pairs():
    drawn = PoolPlan("", SMALL, 2000, {"duplicate": 0.6}).draw()
    copies = np.flatnonzero(drawn.kinds == "duplicate")
    pairs = {(drawn.images[row].tobytes(), drawn.captions[row]) for row in copies}
    assert len(pairs) <= 400
    assert np.isfinite(drawn.truths[copies]).all()
