import numpy as np
import pytest

from clipdre.engines.local import InProcess
from clipdre.estimating import alike
from clipdre.estimating.alike import find_leaders, inverse
from clipdre.formats.folders.parts import Parts
from tests.core.oracle import clustered_pool, unit_rows
from tests.estimating.stored import store

CPU = InProcess("cpu")
D = 32


def beside(rng, vectors, cosine):
    """Vectors at this cosine from the given ones."""
    away = rng.standard_normal(vectors.shape)
    away -= (away * vectors).sum(axis=1, keepdims=True) * vectors
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return cosine * vectors + np.sqrt(1 - cosine**2) * away


def planted(seed, n, copies, cosine, texts_too=True):
    """Draw a pool whose first pairs have `copies` further ones beside them; return it shuffled.

    Also returns the pair that each row is a copy of.
    """
    rng = np.random.default_rng(seed)
    images, texts = (unit_rows(rng, n, D) for _ in range(2))
    origin = np.concatenate([np.arange(n), np.repeat(np.arange(20), copies)])
    images = np.concatenate([images, beside(rng, images[origin[n:]], cosine)])
    again = beside(rng, texts[origin[n:]], cosine) if texts_too else unit_rows(rng, 20 * copies, D)
    texts = np.concatenate([texts, again])
    order = rng.permutation(len(origin))
    return images[order], texts[order], origin[order]


def groups(tmp_path, images, texts, threshold=0.95, ranks=None):
    stored = store(tmp_path, images, texts, (len(images) - 7, 0, 7))
    ranks = np.random.default_rng(0).permutation(len(images)) if ranks is None else ranks
    parts = Parts(tmp_path / "parts", "")
    return find_leaders(stored.pool, inverse(ranks), threshold, parts, CPU), ranks


def naive_leaders(images, texts, threshold, ranks):
    """Follow each pair to the smallest pair it is alike to, and on from there."""
    alike_pairs = (images @ images.T > threshold) & (texts @ texts.T > threshold)
    np.fill_diagonal(alike_pairs, True)

    def lead(row):
        best = min(np.flatnonzero(alike_pairs[row]), key=lambda other: ranks[other])
        return row if best == row else lead(best)

    return np.array([lead(row) for row in range(len(images))])


@pytest.fixture(params=["one cell", "many cells"])
def cells(request, monkeypatch):
    if request.param == "many cells":
        monkeypatch.setattr(alike, "ONE_CELL_UP_TO", 50)


@pytest.mark.usefixtures("cells")
class TestFindLeaders:
    @pytest.mark.parametrize("cosine", [1.0, 0.99])
    @pytest.mark.parametrize("copies", [1, 9])
    def test_copies_are_one_group_led_by_the_smallest_rank(self, tmp_path, copies, cosine):
        images, texts, origin = planted(1, 200, copies, cosine)
        leaders, ranks = groups(tmp_path, images, texts)
        for pair in range(200):
            of_pair = np.flatnonzero(origin == pair)
            smallest = of_pair[np.argmin(ranks[of_pair])]
            assert set(leaders[of_pair]) == {smallest}

    def test_pairs_alike_on_one_side_only_stay_apart(self, tmp_path):
        images, texts, _ = planted(2, 200, 3, 1.0, texts_too=False)
        for first, second in ((images, texts), (texts, images)):
            leaders, _ = groups(tmp_path / str(id(first)), first, second)
            assert leaders.tolist() == list(range(len(images)))

    def test_copies_are_alike_at_any_threshold(self, tmp_path):
        images, texts, origin = planted(3, 200, 2, 1.0)
        leaders, _ = groups(tmp_path, images, texts, threshold=1.0)
        assert len(set(leaders)) == len(set(origin))
        images, texts, _ = planted(3, 200, 2, 0.98)
        leaders, _ = groups(tmp_path / "near", images, texts, threshold=0.99)
        assert len(set(leaders)) == len(images)

    def test_groups_do_not_depend_on_the_order_of_rows(self, tmp_path):
        images, texts, _ = planted(4, 200, 4, 0.97)
        leaders, ranks = groups(tmp_path, images, texts)
        order = np.random.default_rng(5).permutation(len(images))
        again, _ = groups(tmp_path / "again", images[order], texts[order], ranks=ranks[order])
        assert order[again].tolist() == leaders[order].tolist()


@pytest.mark.parametrize("block_rows", [1024, 16])
def test_one_cell_matches_a_naive_search(tmp_path, monkeypatch, block_rows):
    monkeypatch.setattr(alike, "BLOCK_ROWS", block_rows)
    images, texts = clustered_pool(seed=6, n=400, d=8, noise=0.3)
    leaders, ranks = groups(tmp_path, images, texts, threshold=0.93)
    expected = naive_leaders(images, texts, 0.93, ranks)
    assert leaders.tolist() == expected.tolist()
    sizes = np.bincount(leaders)
    assert (sizes > 2).sum() > 20  # chains as well as pairs


def test_cells_find_what_one_cell_finds(tmp_path, monkeypatch):
    images, texts, _ = planted(7, 3000, 20, 0.975)
    whole, ranks = groups(tmp_path, images, texts)
    monkeypatch.setattr(alike, "ONE_CELL_UP_TO", 50)
    found, _ = groups(tmp_path, images, texts, ranks=ranks)
    grouped = np.bincount(whole)[whole] > 1
    assert grouped.sum() > 300
    assert (found == whole)[grouped].mean() > 0.97
    assert (found == whole)[~grouped].all()


def test_thousands_of_copies_cost_one_comparison_each(tmp_path, monkeypatch):
    """Rows that have found a smaller copy are not compared again."""
    rows = []
    first_in_block = alike._first_in_block

    def counted(cell, cosines, *rest):
        rows.append(cosines.numel())
        return first_in_block(cell, cosines, *rest)

    monkeypatch.setattr(alike, "_first_in_block", counted)
    monkeypatch.setattr(alike, "BLOCK_ROWS", 64)
    one = unit_rows(np.random.default_rng(8), 1, D)
    leaders, ranks = groups(tmp_path, np.repeat(one, 1000, axis=0), np.repeat(one, 1000, axis=0))
    assert set(leaders) == {int(np.argmin(ranks))}
    assert sum(rows) <= 64 * 1000
