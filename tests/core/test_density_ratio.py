import numpy as np
import pytest
import torch

from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity, unit
from clipdre.core.tiles import accumulate
from tests.core.oracle import clustered_pool, scores


def test_ratios_match_the_oracle():
    images, texts = clustered_pool(7, n=120, d=24, noise=0.8)
    expected = scores(images, texts, 100.0)
    i, t = torch.from_numpy(images), torch.from_numpy(texts)
    own = torch.arange(len(i))
    logits = 100 * similarity(i, t)
    by_image = log_ratio(logits, accumulate(i, [(t, own)], scale=100.0, groups=own))
    by_text = log_ratio(logits, accumulate(t, [(i, own)], scale=100.0, groups=own))
    pmi = pointwise_mutual_information(by_image, by_text)
    np.testing.assert_allclose(by_image, expected["log_ratio_image"], atol=1e-9)
    np.testing.assert_allclose(by_text, expected["log_ratio_text"], atol=1e-9)
    np.testing.assert_allclose(pmi, expected["log_ratio"], atol=1e-9)


def test_ratio_that_includes_own_counterparts_is_the_negative_clip_loss():
    images, texts = (torch.from_numpy(x) for x in clustered_pool(8, n=64, d=16, noise=0.5))
    matrix = 100 * images @ texts.T
    target = torch.arange(64)
    loss = (
        torch.nn.functional.cross_entropy(matrix, target)
        + torch.nn.functional.cross_entropy(matrix.T, target)
    ) / 2
    logits = 100 * similarity(images, texts)
    by_image = log_ratio(logits, accumulate(images, [(texts, target)], scale=100.0))
    by_text = log_ratio(logits, accumulate(texts, [(images, target)], scale=100.0))
    mean = pointwise_mutual_information(by_image, by_text).mean()
    # The loss sums over the batch, the ratio averages: they differ by log N.
    np.testing.assert_allclose(mean, np.log(64) - loss)


def test_unit_scales_rows_to_length_1():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = unit(vectors)
    assert torch.allclose(found[0], torch.tensor([0.6, 0.8]))
    assert torch.isnan(found[1]).all()


def test_similarity_rejects_shapes_that_differ():
    with pytest.raises(ValueError, match=r"must have the same shape.*\(2, 3\) and \(3, 3\)"):
        similarity(torch.zeros(2, 3), torch.zeros(3, 3))
