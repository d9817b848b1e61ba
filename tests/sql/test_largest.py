import numpy as np
import pytest

from clipdre.sql import largest as module
from clipdre.sql.largest import largest
from tests.sql.made_up import query_of, random_hashes, row_set, write_pool

ROWS = 3000
HASHES = random_hashes(ROWS)
RNG = np.random.default_rng(7)
VALUES = {
    "distinct": RNG.standard_normal(ROWS),
    "many ties": RNG.integers(0, 4, ROWS).astype(float),
    "two values": (RNG.random(ROWS) < 0.01).astype(float),
    "all equal": np.full(ROWS, -2.5),
    "infinite": np.where(RNG.random(ROWS) < 0.3, np.inf, RNG.standard_normal(ROWS)),
    "zeros of both signs": np.where(RNG.random(ROWS) < 0.5, -0.0, 0.0),
    "heavy tail": np.exp(20 * RNG.standard_normal(ROWS)),
}


@pytest.fixture
def passes(monkeypatch):
    """Let few rows be fetched at once, so that the place is found in several passes; count them."""
    monkeypatch.setattr(module, "FETCHED", 64)
    monkeypatch.setattr(module, "SAMPLED", 32)
    found, original = [], module._cuts
    monkeypatch.setattr(module, "_cuts", lambda *args: found.append(args) or original(*args))
    return found


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("n", [1, 2, 50, 1499, ROWS - 1])
def test_keeps_the_n_largest_rows(tmp_path, passes, kind, n):
    values = VALUES[kind]
    columns = {"key_hash": HASHES, "x": values}
    query = query_of(tmp_path, write_pool(tmp_path, (1000, 1500, 500), columns))
    found = largest(row_set(query, by="x"), ROWS, "by_0", "key_hash", n)
    (hashes,) = found.arrays("key_hash")
    expected = HASHES[np.lexsort((HASHES, -values))[:n]]
    assert len(hashes) == n
    assert set(hashes.tolist()) == set(expected.tolist())
    assert passes


@pytest.mark.parametrize("kind", ["distinct", "many ties", "all equal"])
def test_a_cut_may_fall_right_after_the_last_row_kept(tmp_path, monkeypatch, kind):
    values, n = VALUES[kind], 500
    order = np.lexsort((HASHES, -values))
    cut = module._Place(float(values[order[n]]), int(HASHES[order[n]]))
    monkeypatch.setattr(module, "FETCHED", 64)
    monkeypatch.setattr(module, "_cuts", lambda *args: [cut])
    columns = {"key_hash": HASHES, "x": values}
    query = query_of(tmp_path, write_pool(tmp_path, (ROWS,), columns))
    found = largest(row_set(query, by="x"), ROWS, "by_0", "key_hash", n)
    (hashes,) = found.arrays("key_hash")
    assert sorted(hashes.tolist()) == sorted(HASHES[order[:n]].tolist())


def test_fetches_few_rows_without_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_cuts", None)
    values = VALUES["distinct"]
    query = query_of(tmp_path, write_pool(tmp_path, (ROWS,), {"key_hash": HASHES, "x": values}))
    (found,) = largest(row_set(query, by="x"), ROWS, "by_0", "key_hash", 10).arrays("by_0")
    assert sorted(found) == sorted(values)[-10:]


def test_narrows_down_quickly(tmp_path, passes, monkeypatch):
    """Two counts suffice if the sample brackets the place."""
    query = query_of(
        tmp_path, write_pool(tmp_path, (ROWS,), {"key_hash": HASHES, "x": VALUES["distinct"]})
    )
    monkeypatch.setattr(module, "SAMPLED", 1500)
    largest(row_set(query, by="x"), ROWS, "by_0", "key_hash", 5)
    assert 1 <= len(passes) <= 3
