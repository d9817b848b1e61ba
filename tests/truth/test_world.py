import itertools

import numpy as np
import pytest

from clipdre.truth.world import (
    ATTRIBUTES,
    sample_pairs,
    true_kl_image,
    true_kl_text,
    true_log_ratio,
    true_mutual_information,
)


def test_priors_and_mention_rates_are_as_designed():
    for attribute in ATTRIBUTES:
        assert len(attribute.values) == len(attribute.prior)
        assert sum(attribute.prior) == pytest.approx(1)
    shape = ATTRIBUTES[0].prior
    assert shape[0] / shape[3] == pytest.approx(4**0.8)
    assert [a.mention for a in ATTRIBUTES] == [0.8, 0.6, 0.3, 0.3, 0.25]


def test_same_seed_draws_the_same_pairs():
    first, second = (sample_pairs(50, np.random.default_rng(3)) for _ in range(2))
    assert first.captions == second.captions
    assert (first.values == second.values).all()


def test_captions_name_exactly_the_mentioned_values():
    pairs = sample_pairs(300, np.random.default_rng(0))
    words = [w for a in ATTRIBUTES for w in a.values]
    assert len(set(words)) == len(words)
    for values, mentioned, caption in zip(
        pairs.values, pairs.mentioned, pairs.captions, strict=True
    ):
        expected = {a.values[v] for a, v, m in zip(ATTRIBUTES, values, mentioned, strict=True) if m}
        assert {w for w in words if w in caption} == expected


def test_truths_match_enumeration_of_the_whole_world():
    """KL by its definition, summed over all scenes and all captions."""
    scenes = list(itertools.product(*(range(len(a.prior)) for a in ATTRIBUTES)))
    p_scene = np.array(
        [np.prod([a.prior[v] for a, v in zip(ATTRIBUTES, s, strict=True)]) for s in scenes]
    )
    scenes = np.array(scenes)
    masks = np.array(list(itertools.product([False, True], repeat=5)))
    q = np.array([a.mention for a in ATTRIBUTES])
    p_mask = np.where(masks, q, 1 - q).prod(axis=1)
    pairs = sample_pairs(5, np.random.default_rng(1))
    for n in range(5):
        values, mentioned = pairs.values[n], pairs.mentioned[n]
        # KL(p(I|t) || p(I)): the posterior is the prior on consistent scenes, renormalized.
        consistent = (scenes[:, mentioned] == values[mentioned]).all(axis=1)
        posterior = np.where(consistent, p_scene, 0) / p_scene[consistent].sum()
        ratio = posterior[consistent] / p_scene[consistent]
        kl_text = (posterior[consistent] * np.log(ratio)).sum()
        assert true_kl_text(pairs)[n] == pytest.approx(kl_text)
        itself = (scenes == values).all(axis=1)
        assert true_log_ratio(pairs)[n] == pytest.approx(
            np.log(posterior[itself] / p_scene[itself])[0]
        )
        # KL(p(T|i) || p(T)): a mask determines the image's caption; p(t) sums over consistent
        # scenes.
        kl_image = 0.0
        for mask, p in zip(masks, p_mask, strict=True):
            p_values = p_scene[(scenes[:, mask] == values[mask]).all(axis=1)].sum()
            kl_image += p * np.log(p / (p * p_values))
        assert true_kl_image(pairs)[n] == pytest.approx(kl_image)


def test_means_of_all_truths_are_the_mutual_information():
    pairs = sample_pairs(200_000, np.random.default_rng(2))
    for truth in (true_log_ratio, true_kl_text, true_kl_image):
        assert truth(pairs).mean() == pytest.approx(true_mutual_information(), abs=0.015)
    assert true_mutual_information() == pytest.approx(3.369, abs=0.001)
