import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipdre.core.moments import Moments, centred_norm, covariance_norm, mean_logit
from tests.core.oracle import unit_rows


def vectors(seed, n, d=5):
    return torch.from_numpy(unit_rows(np.random.default_rng(seed), n, d))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.randoms())
def test_merging_in_any_order_gives_the_moments_of_the_whole(sizes, random):
    parts = [vectors(seed, size) for seed, size in enumerate(sizes)]
    whole = torch.cat(parts)
    random.shuffle(parts)
    merged = Moments.empty(5)
    for part in parts:
        merged = merged.merge(Moments.of(part))
    assert merged.count == len(whole)
    if len(whole):
        np.testing.assert_allclose(merged.mean, whole.numpy().mean(axis=0), atol=1e-12)
        expected = np.cov(whole.numpy().T, bias=True)
        np.testing.assert_allclose(merged.covariance, expected, atol=1e-12)


def test_float32_products_are_close():
    rows = vectors(3, 500, 64)
    found = Moments.of(rows.float())
    np.testing.assert_allclose(found.mean, rows.numpy().mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(found.covariance, np.cov(rows.numpy().T, bias=True), atol=1e-7)


def test_norms_match_loops():
    queries, others = vectors(1, 7), vectors(2, 9)
    own, other = Moments.of(queries), Moments.of(others)
    for n, row in enumerate(queries.numpy() - queries.numpy().mean(axis=0)):
        expected = 900 * row @ np.cov(others.numpy().T, bias=True) @ row
        np.testing.assert_allclose(covariance_norm(queries, own, other, 30.0)[n], expected)
        np.testing.assert_allclose(centred_norm(queries, own, 30.0)[n], 900 * row @ row)


def test_mean_logit_averages_the_logits_that_are_not_left_out():
    queries, others = vectors(8, 6), vectors(9, 20)
    logits = (30.0 * queries @ others.T - 4.0).numpy()
    left_out = np.array([True, False, True, True, False, True])
    expected = [
        np.delete(row, n).mean() if out else row.mean()
        for n, (row, out) in enumerate(zip(logits, left_out, strict=True))
    ]
    total = torch.from_numpy(np.diag(logits) * left_out)
    found = mean_logit(queries, Moments.of(others), 30.0, -4.0, total, torch.from_numpy(left_out))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_union_has_the_moments_of_all_rows():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(60, 2)))
    parts = [Moments.of(part) for part in torch.split(rows, [25, 0, 35])]
    counts = torch.tensor([float(part.count) for part in parts]).double()
    found = Moments.union(
        counts, torch.stack([p.mean for p in parts]), torch.stack([p.covariance for p in parts])
    )
    assert found.count == 60
    torch.testing.assert_close(found.mean, rows.mean(dim=0))
    torch.testing.assert_close(found.covariance, torch.cov(rows.T, correction=0))
